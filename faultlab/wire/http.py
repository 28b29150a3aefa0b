"""HTTP/1.1: https://www.rfc-editor.org/rfc/rfc9112."""

from collections import deque
from enum import Enum, auto
from typing import Final

from .framing import Framer, Side, UnknownProtocolError

_MAX_LENGTH_DIGITS: Final = 20  # more is not a real length, and `int` rejects more than 4300 digits
_MAX_HEAD_BYTES: Final = 256 * 1024
_HEAD_END: Final = b"\r\n\r\n"
_NO_BODY_STATUSES: Final = {204, 304}
_SWITCHING_PROTOCOLS: Final = 101
_INFORMATIONAL: Final = range(100, 200)


class _Next(Enum):
    """The next part of one direction, if it is not a body of known length."""

    HEAD = auto()
    CHUNK = auto()
    UNTIL_CLOSE = auto()  # a body that ends with the connection


class HttpFramer(Framer):
    """Messages are `request head` and `request body`, `response head` and `response body`.

    A body of known length is one message. Each chunk of a chunked body is a message.
    """

    def __init__(self) -> None:
        super().__init__()
        self._next: dict[Side, _Next | int] = dict.fromkeys(Side, _Next.HEAD)
        self._pending_methods: deque[str] = deque()  # of the requests without a response

    def length(self, sender: Side, buffer: bytearray) -> int | None:
        match self._next[sender]:
            case _Next.HEAD:
                return _end_of_head(sender, buffer)
            case _Next.CHUNK:
                return _end_of_chunk(buffer)
            case _Next.UNTIL_CLOSE:
                return len(buffer)
            case int(length):
                return length
        raise AssertionError("unreachable")

    def name(self, sender: Side, message: bytes) -> str:
        kind = "request" if sender is Side.CLIENT else "response"
        match self._next[sender]:
            case _Next.HEAD:
                self._next[sender] = self._after_head(sender, message)
                return f"{kind} head"
            case _Next.CHUNK:
                if int(message.split(b"\r\n")[0].split(b";")[0], 16) == 0:
                    self._next[sender] = _Next.HEAD
            case int():
                self._next[sender] = _Next.HEAD
        return f"{kind} body"

    def _after_head(self, sender: Side, head: bytes) -> _Next | int:
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = {
            name.strip().lower(): value.strip().lower() for name, _, value in (line.partition(":") for line in lines)
        }
        if sender is Side.CLIENT:
            self._pending_methods.append(first.split(" ")[0])
        elif (after := self._after_bodiless_response(int(first.split(" ")[1]))) is not None:
            return after
        if "chunked" in fields.get("transfer-encoding", ""):
            return _Next.CHUNK
        if "content-length" in fields:
            length = fields["content-length"]
            if not length.isdecimal() or len(length) > _MAX_LENGTH_DIGITS:
                raise UnknownProtocolError
            return int(length) or _Next.HEAD
        return _Next.HEAD if sender is Side.CLIENT else _Next.UNTIL_CLOSE

    def _after_bodiless_response(self, status: int) -> _Next | None:
        """Return the part that follows a response that never has a body; None if it may have one."""
        if status == _SWITCHING_PROTOCOLS:
            self.passthrough()
            return _Next.UNTIL_CLOSE
        if status in _INFORMATIONAL:
            return _Next.HEAD  # the final response follows
        method = self._pending_methods.popleft() if self._pending_methods else "GET"
        if method == "CONNECT" and status in range(200, 300):
            self.passthrough()
            return _Next.UNTIL_CLOSE
        return _Next.HEAD if method == "HEAD" or status in _NO_BODY_STATUSES else None


def _end_of_head(sender: Side, buffer: bytearray) -> int | None:
    end = buffer.find(_HEAD_END)
    first = bytes(buffer[: end if end >= 0 else None].split(b"\r\n")[0])
    if not _may_begin(sender, first, complete=b"\r\n" in buffer) or (end < 0 and len(buffer) > _MAX_HEAD_BYTES):
        raise UnknownProtocolError
    return end + len(_HEAD_END) if end >= 0 else None


def _may_begin(sender: Side, line: bytes, *, complete: bool) -> bool:
    """Return whether a line, or its beginning, may be the first line of a request or a response."""
    if not complete:
        return line[:1].isalpha() if sender is Side.CLIENT else b"HTTP/1.".startswith(line[:7])
    words = line.split(b" ")
    if sender is Side.CLIENT:
        return len(words) == 3 and words[2].startswith(b"HTTP/1.")  # noqa: PLR2004 - method, target, version
    return len(words) > 1 and words[0].startswith(b"HTTP/1.") and words[1].isdigit()


def _end_of_chunk(buffer: bytearray) -> int | None:
    """Return the end of a chunk, including its size line. The last chunk is empty, and may be followed by trailers."""
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
