"""The protocol of Redis, RESP2 and RESP3: https://redis.io/docs/latest/develop/reference/protocol-spec/."""

from collections import deque
from typing import Final

from .framing import MAX_MESSAGE_BYTES, Framer, Side, UnknownProtocolError

_LINES: Final = b"+-:_#,("
_BULKS: Final = b"$!="
# Values per counted element. An attribute (`|`) is followed by the value that it belongs to.
_AGGREGATES: Final = {ord("*"): 1, ord("~"): 1, ord(">"): 1, ord("%"): 2, ord("|"): 2}

_WITH_SUBCOMMANDS: Final = {"ACL", "CLIENT", "CLUSTER", "COMMAND", "CONFIG", "FUNCTION", "MEMORY", "OBJECT", "SCRIPT"}

_MAX_LINE_BYTES: Final = 64 * 1024


class RedisFramer(Framer):
    """A request has the name of its command, a reply the name of its request: both come in the same order."""

    def __init__(self) -> None:
        super().__init__()
        self._pending: deque[str] = deque()  # commands without a reply

    def length(self, sender: Side, buffer: bytearray) -> int | None:
        if sender is Side.CLIENT and buffer[0] != ord("*"):
            return _end_of_line(buffer, 0)  # an inline command
        return _end_of_value(buffer, 0)

    def name(self, sender: Side, message: bytes) -> str:
        if sender is Side.CLIENT:
            name = _command(message)
            self._pending.append(name)
            return name
        if message[:1] == b">":
            return "push"
        return f"reply to {self._pending.popleft()}" if self._pending else "reply"


def _end_of_line(buffer: bytearray, at: int) -> int | None:
    end = buffer.find(b"\r\n", at)
    if end < 0:
        if len(buffer) - at > _MAX_LINE_BYTES:
            raise UnknownProtocolError
        return None
    return end + 2


def _end_of_value(buffer: bytearray, at: int) -> int | None:
    """Return the end of the value that begins at `at`. Nested values are counted instead of recursed into."""
    remaining = 1
    while remaining:
        if at >= len(buffer):
            return None
        kind = buffer[at]
        if kind not in _LINES and kind not in _BULKS and kind not in _AGGREGATES:
            raise UnknownProtocolError
        end = _end_of_line(buffer, at)
        if end is None:
            return None
        remaining -= 1
        if kind not in _LINES:
            count = _number(buffer[at + 1 : end - 2])
            if kind in _BULKS:
                end += count + 2 if count >= 0 else 0
            else:
                remaining += max(count, 0) * _AGGREGATES[kind] + (kind == ord("|"))
        at = end
    return at


def _number(digits: bytearray) -> int:
    try:
        number = int(digits)
    except ValueError:
        raise UnknownProtocolError from None
    if not -1 <= number <= MAX_MESSAGE_BYTES:
        raise UnknownProtocolError
    return number


def _command(message: bytes) -> str:
    # The lines of CLIENT ID: *2, $6, CLIENT, $2, ID.
    words = message.split(b"\r\n")[2:5:2] if message[:1] == b"*" else message.split()[:2]
    names = [word.decode("ascii", "replace").upper() for word in words]
    return " ".join(names[: 2 if names[:1] and names[0] in _WITH_SUBCOMMANDS else 1])
