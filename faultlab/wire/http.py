"""HTTP/1.1: https://www.rfc-editor.org/rfc/rfc9112."""

from collections import deque
from enum import Enum, auto
from typing import Final

from faultlab.wire.framing import Framer, Side, UnknownProtocolError

_LONGEST_LENGTH: Final = 20  # digits: Python reads no more than 4300 of them, and nobody means more than these
_LONGEST_HEAD: Final = 256 * 1024
_HEAD_END: Final = b"\r\n\r\n"
_WITHOUT_BODY: Final = {204, 304}
_SWITCHED: Final = 101
_INFORMATIONAL: Final = range(100, 200)


class _Next(Enum):
    """What is to come, where that is not a number of bytes."""

    HEAD = auto()
    CHUNK = auto()
    ALL = auto()
    """The body ends with the connection."""


class Http(Framer):
    """Messages are `request head` and `request body`, `response head` and `response body`.

    A body of known length is one message, and each chunk of one whose length is not known.
    """

    def __init__(self) -> None:
        super().__init__()
        self._next: dict[Side, _Next | int] = dict.fromkeys(Side, _Next.HEAD)
        self._asked: deque[str] = deque()

    def length(self, sender: Side, buffer: bytearray) -> int | None:
        match self._next[sender]:
            case _Next.HEAD:
                return _end_of_head(sender, buffer)
            case _Next.CHUNK:
                return _end_of_chunk(buffer)
            case _Next.ALL:
                return len(buffer)
            case int(length):
                return length
        raise AssertionError("unreachable")

    def name(self, sender: Side, message: bytes) -> str:
        what = "request" if sender is Side.CLIENT else "response"
        match self._next[sender]:
            case _Next.HEAD:
                self._next[sender] = self._after_head(sender, message)
                return f"{what} head"
            case _Next.CHUNK:
                if int(message.split(b"\r\n")[0].split(b";")[0], 16) == 0:
                    self._next[sender] = _Next.HEAD
            case int():
                self._next[sender] = _Next.HEAD
        return f"{what} body"

    def _after_head(self, sender: Side, head: bytes) -> _Next | int:
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = {
            name.strip().lower(): value.strip().lower() for name, _, value in (line.partition(":") for line in lines)
        }
        if sender is Side.CLIENT:
            self._asked.append(first.split(" ")[0])
        elif (without := self._has_no_body(int(first.split(" ")[1]))) is not None:
            return without
        if "chunked" in fields.get("transfer-encoding", ""):
            return _Next.CHUNK
        if "content-length" in fields:
            length = fields["content-length"]
            if not length.isdecimal() or len(length) > _LONGEST_LENGTH:
                raise UnknownProtocolError
            return int(length) or _Next.HEAD
        return _Next.HEAD if sender is Side.CLIENT else _Next.ALL

    def _has_no_body(self, status: int) -> _Next | None:
        """What follows a response that has no body, whatever its fields say; None if it may have one."""
        if status == _SWITCHED:
            self.pass_raw()
            return _Next.ALL
        if status in _INFORMATIONAL:
            return _Next.HEAD  # the answer itself is still to come
        method = self._asked.popleft() if self._asked else "GET"
        if method == "CONNECT" and status in range(200, 300):
            self.pass_raw()
            return _Next.ALL
        return _Next.HEAD if method == "HEAD" or status in _WITHOUT_BODY else None


def _end_of_head(sender: Side, buffer: bytearray) -> int | None:
    end = buffer.find(_HEAD_END)
    first = bytes(buffer[: end if end >= 0 else None].split(b"\r\n")[0])
    if not _may_begin(sender, first, complete=b"\r\n" in buffer) or (end < 0 and len(buffer) > _LONGEST_HEAD):
        raise UnknownProtocolError
    return end + len(_HEAD_END) if end >= 0 else None


def _may_begin(sender: Side, line: bytes, *, complete: bool) -> bool:
    """Whether a line, or what is there of it, may be the first one of a request or of a response."""
    if not complete:
        return line[:1].isalpha() if sender is Side.CLIENT else b"HTTP/1.".startswith(line[:7])
    words = line.split(b" ")
    if sender is Side.CLIENT:
        return len(words) == 3 and words[2].startswith(b"HTTP/1.")  # noqa: PLR2004 - method, target, version
    return len(words) > 1 and words[0].startswith(b"HTTP/1.") and words[1].isdigit()


def _end_of_chunk(buffer: bytearray) -> int | None:
    """A chunk with its size before it. The last one has none, and may have fields after it."""
    end = buffer.find(b"\r\n")
    if end < 0:
        return None
    try:
        size = int(bytes(buffer[:end]).split(b";")[0], 16)
    except ValueError:
        raise UnknownProtocolError from None
    if size < 0:
        raise UnknownProtocolError
    if size:
        return end + 2 + size + 2
    if buffer[end + 2 : end + 4] == b"\r\n":
        return end + 4
    trailer = buffer.find(_HEAD_END, end)
    return trailer + len(_HEAD_END) if trailer >= 0 else None
