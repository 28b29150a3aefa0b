"""One connection through a proxy: both of its ends, and the fault that hits it."""

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto

from faultlab.wire.faults import GARBAGE, WireFault
from faultlab.wire.framing import Framer, Message, Side
from faultlab.wire.log import ClosedBy, WireLog

ACCEPT = "accept"
"""What the point before the first message is called."""

_CHUNK = 64 * 1024

End = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Due = Callable[[int, str], WireFault | None]
"""Asked at each message, with its number and name: which fault hits the connection there?"""


class _Mode(Enum):
    PASSING = auto()
    BYTE_AT_A_TIME = auto()
    SILENT = auto()
    """Nothing passes any more. It is read all the same, to see when the client lets go."""


class Connection:
    def __init__(self, number: int, client: End, framer: Framer, *, name: str, due: Due, log: WireLog | None) -> None:
        self.number = number
        self.messages: list[str] = []
        """The names of all messages, in order of arrival."""
        self.open_by_client = True
        """Whether the client has neither closed nor reset it."""
        self._ends: dict[Side, End] = {Side.CLIENT: client}
        self._framer = framer
        self._name = name
        self._due = due
        self._log = log
        self._mode = _Mode.PASSING
        self._hit = False
        self._ended: set[Side] = set()
        self._closed = False
        self._last: str | None = None

    async def run(self, host: str, port: int) -> None:
        """Pass messages on until both sides have closed."""
        if self._log is not None:
            self._log.opens(self._name, self.number)
        try:
            fault = self._due(0, ACCEPT)
            if fault is not None:
                self.apply(fault)
            if not self._closed and self._mode is not _Mode.SILENT:
                await self._connect(host, port)
            await asyncio.gather(*(self._pump(side) for side in tuple(self._ends)))
            for side in self._ends:
                await self._shut(side)
        finally:
            for side, (_, writer) in self._ends.items():
                writer.transport.abort()
                await self._shut(side)

    async def _shut(self, side: Side) -> None:
        _, writer = self._ends[side]
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async def _connect(self, host: str, port: int) -> None:
        try:
            self._ends[Side.SERVER] = await asyncio.open_connection(host, port)
        except OSError:  # all that can be said to a client that was accepted already
            self._record(ClosedBy.SERVER, reset=True)
            self._reset(Side.CLIENT)

    def apply(self, fault: WireFault, message: Message | None = None) -> None:
        """Let the fault happen, instead of the message or now; once to each connection."""
        self._hit = True
        data = message.data if message is not None else b""
        to = message.sender.other if message is not None else Side.CLIENT
        match fault:
            case WireFault.REFUSE | WireFault.RESET:
                self._record(ClosedBy.LAB, reset=True)
                for side in self._ends:
                    self._reset(side)
            case WireFault.CLOSE | WireFault.TRUNCATE:
                if fault is WireFault.TRUNCATE:
                    self._write(to, data[: len(data) // 2])
                self._record(ClosedBy.LAB, reset=False)
                for side in self._ends:
                    self._end(side)
            case WireFault.BLACK_HOLE | WireFault.GARBAGE:
                if fault is WireFault.GARBAGE:
                    self._write(to, GARBAGE)
            case WireFault.BYTE_AT_A_TIME:
                self._mode = _Mode.BYTE_AT_A_TIME
                return
        self._mode = _Mode.SILENT

    async def _pump(self, side: Side) -> None:
        """Read what one side sends, until it closes."""
        reader, _ = self._ends[side]
        try:
            while data := await reader.read(_CHUNK):
                for message in self._framer.feed(side, data):
                    await self._arrived(message)
            for message in self._framer.rest(side):
                await self._arrived(message)
        except OSError:
            self._has_closed(side, reset=True)
        else:
            self._has_closed(side, reset=False)

    async def _arrived(self, message: Message) -> None:
        self.messages.append(message.name)
        if message.sender is Side.CLIENT:
            self._last = message.name
        fault = None if self._hit else self._due(len(self.messages), message.name)
        if fault is not None:
            self.apply(fault, message)
        if fault is None or fault is WireFault.BYTE_AT_A_TIME:
            await self._pass_on(message)

    async def _pass_on(self, message: Message) -> None:
        to = message.sender.other
        if (
            self._mode is _Mode.SILENT or to not in self._ends
        ):  # the server may have refused, and the client spoken already
            return
        if self._mode is _Mode.PASSING:
            self._write(to, message.data)
        else:
            for byte in message.data:
                self._write(to, bytes([byte]))
                for _ in range(2):  # a client in this event loop reads it before the next one is sent
                    await asyncio.sleep(0)
        with suppress(OSError):  # its own pump will see it, too
            await self._ends[to][1].drain()

    def _has_closed(self, side: Side, *, reset: bool) -> None:
        """Tell the other side, as it happened."""
        if side is Side.CLIENT:
            self.open_by_client = False
        if self._mode is _Mode.SILENT and side is Side.SERVER:
            return  # the hole has swallowed that, too
        self._record(ClosedBy.of(side), reset=reset)
        if side.other not in self._ends:
            return
        if reset:
            self._reset(side.other)
        elif self._mode is _Mode.SILENT:
            self._ends[side.other][1].close()
        else:
            self._end(side.other)

    def _record(self, by: ClosedBy, *, reset: bool) -> None:
        """Record who closes, if nobody has yet."""
        if not self._closed and self._log is not None:
            self._log.closes(self._name, self.number, by=by, reset=reset, last=self._last)
        self._closed = True

    def _write(self, to: Side, data: bytes) -> None:
        if to in self._ends and to not in self._ended and not self._ends[to][1].is_closing():
            self._ends[to][1].write(data)

    def _end(self, side: Side) -> None:
        """Send FIN. What that side still says is read until it closes, too."""
        _, writer = self._ends[side]
        self._ended.add(side)
        with suppress(OSError):  # it was reset just now; its pump will see it
            writer.write_eof()

    def _reset(self, side: Side) -> None:
        """Send RST."""
        _, writer = self._ends[side]
        if not writer.is_closing():
            linger = struct.pack("ii", 1, 0)  # for no time at all: close() resets the connection then
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
