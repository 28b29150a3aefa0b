"""Framers split the bytes of a connection into messages, for each direction."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

MAX_MESSAGE_BYTES = 16 * 2**20  # a longer announced length is treated as garbage: waiting for its end would be a hang

RAW = "raw"  # the name of bytes that are not parsed


class Side(StrEnum):
    """The two ends of a connection."""

    CLIENT = "client"
    SERVER = "server"

    @property
    def other(self) -> "Side":
        return Side.SERVER if self is Side.CLIENT else Side.CLIENT


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a protocol, or raw bytes."""

    sender: Side
    name: str
    data: bytes


class UnknownProtocolError(Exception):
    """The bytes are not a message of the protocol."""


class Framer(ABC):
    """Splits the bytes of one connection into messages.

    No byte is lost or held back forever: bytes that cannot be parsed pass unchanged, because a proxy must be
    transparent.
    """

    def __init__(self) -> None:
        self._buffers = {side: bytearray() for side in Side}
        self._raw: set[Side] = set()

    def feed(self, sender: Side, data: bytes) -> Iterator[Message]:
        """Add received bytes, and yield each message that is complete now."""
        buffer = self._buffers[sender]
        buffer += data
        while buffer and sender not in self._raw:
            try:
                message = self._parse_first(sender, buffer)
            except UnknownProtocolError:
                self._raw.add(sender)
                break
            if message is None:
                return
            del buffer[: len(message.data)]
            yield message
        if sender in self._raw:
            yield from self.rest(sender)

    def _parse_first(self, sender: Side, buffer: bytearray) -> Message | None:
        """Return the first message in the buffer, or None if it is incomplete."""
        length = self.length(sender, buffer)
        if (len(buffer) if length is None else length) > MAX_MESSAGE_BYTES:
            raise UnknownProtocolError
        if length is None or len(buffer) < length:
            return None
        data = bytes(buffer[:length])
        return Message(sender, self.name(sender, data), data)

    def rest(self, sender: Side) -> Iterator[Message]:
        """Yield the remaining bytes as a raw message: nothing more will arrive, or they cannot be parsed."""
        buffer = self._buffers[sender]
        if buffer:
            message = Message(sender, RAW, bytes(buffer))
            buffer.clear()
            yield message

    def passthrough(self) -> None:
        """Stop parsing in both directions: the rest is encrypted, or another protocol."""
        self._raw |= set(Side)

    @abstractmethod
    def length(self, sender: Side, buffer: bytearray) -> int | None:
        """Return the length of the first message in the buffer, or None if more bytes are needed to determine it.

        It may be called more than once for a message and must not change the state of the framer.

        Raises:
            UnknownProtocolError: the bytes are not a message.
        """

    @abstractmethod
    def name(self, sender: Side, message: bytes) -> str:
        """Return the name of a complete message. It is called once for each message, in order, and may keep state.

        Raises:
            UnknownProtocolError: the bytes are not a message.
        """
