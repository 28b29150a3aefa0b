"""Where one message ends and the next begins, in both directions of one connection."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

LARGEST = 16 * 2**20
"""Bytes. A message that says it is longer is taken for no message at all: waiting for its end would be a hang."""

RAW = "raw"
"""The name of bytes in which no message is seen."""


class Side(StrEnum):
    CLIENT = "client"
    SERVER = "server"

    @property
    def other(self) -> "Side":
        return Side.SERVER if self is Side.CLIENT else Side.CLIENT


@dataclass(frozen=True, slots=True)
class Message:
    sender: Side
    name: str
    data: bytes


class UnknownProtocolError(Exception):
    """These bytes are no message of the protocol."""


class Framer(ABC):
    """Splits what is sent on one connection into messages. No byte is lost, and none is held for ever.

    What it cannot read it passes on as it comes: a proxy has to be transparent for what it does not know.
    """

    def __init__(self) -> None:
        self._buffers = {side: bytearray() for side in Side}
        self._raw: set[Side] = set()

    def feed(self, sender: Side, data: bytes) -> Iterator[Message]:
        """Take what has arrived, and yield each message that is complete by now."""
        buffer = self._buffers[sender]
        buffer += data
        while buffer and sender not in self._raw:
            try:
                message = self._first(sender, buffer)
            except UnknownProtocolError:
                self._raw.add(sender)
                break
            if message is None:
                return
            del buffer[: len(message.data)]
            yield message
        if sender in self._raw:
            yield from self.rest(sender)

    def _first(self, sender: Side, buffer: bytearray) -> Message | None:
        """Return the first message in the buffer, if it is complete."""
        length = self.length(sender, buffer)
        if (len(buffer) if length is None else length) > LARGEST:
            raise UnknownProtocolError
        if length is None or len(buffer) < length:
            return None
        data = bytes(buffer[:length])
        return Message(sender, self.name(sender, data), data)

    def rest(self, sender: Side) -> Iterator[Message]:
        """What is left over, be it half a message: nothing more will come, or nobody can read it."""
        buffer = self._buffers[sender]
        if buffer:
            message = Message(sender, RAW, bytes(buffer))
            buffer.clear()
            yield message

    def pass_raw(self) -> None:
        """See no messages from here on: the rest is encrypted, or another protocol."""
        self._raw |= set(Side)

    @abstractmethod
    def length(self, sender: Side, buffer: bytearray) -> int | None:
        """How long the first message in the buffer is; None if there is too little of it to tell.

        May be asked about the same message more than once, and remembers nothing.

        Raises:
            UnknownProtocolError: it is none.
        """

    @abstractmethod
    def name(self, sender: Side, message: bytes) -> str:
        """What a complete message is called. Asked once for each, in order of arrival: what matters later is remembered.

        Raises:
            UnknownProtocolError: it is none.
        """
