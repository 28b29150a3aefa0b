"""One connection through a proxy: it forwards messages in both directions until a fault is injected."""

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto

from .faults import GARBAGE, WireFault
from .framing import Framer, Message, Side
from .log import ClosedBy, WireLog

ACCEPT = "accept"  # the name of the point before the first message
ACCEPT_NUMBER = 0

_CHUNK_BYTES = 64 * 1024

End = tuple[asyncio.StreamReader, asyncio.StreamWriter]
FaultLookup = Callable[[int, str], WireFault | None]  # from the number and name of a message to the fault at it
MessageListener = Callable[[int, Message], object]  # called with the number of the connection and each message


class _Mode(Enum):
    FORWARDING = auto()
    BYTE_AT_A_TIME = auto()
    SILENT = auto()  # nothing is forwarded; both sides are still read, to notice when the client closes


class Connection:
    """One connection of a proxy.

    Attributes:
        number: the number of the connection at its proxy, from 1.
        messages: the names of all messages, in order of arrival.
        open_by_client: whether the client has neither closed nor reset the connection.
    """

    def __init__(
        self,
        number: int,
        client: End,
        framer: Framer,
        *,
        name: str,
        fault_at: FaultLookup,
        log: WireLog | None,
        on_message: MessageListener | None = None,
    ) -> None:
        self.number = number
        self.messages: list[str] = []
        self.open_by_client = True
        self._ends: dict[Side, End] = {Side.CLIENT: client}
        self._framer = framer
        self._name = name
        self._fault_at = fault_at
        self._log = log
        self._on_message = on_message
        self._mode = _Mode.FORWARDING
        self._faulted = False
        self._write_ended: set[Side] = set()
        self._closed = False
        self._last_client_message: str | None = None

    async def run(self, host: str, port: int) -> None:
        """Forward messages until both sides have closed."""
        if self._log is not None:
            self._log.record_opened(self._name, self.number)
        try:
            fault = self._fault_at(ACCEPT_NUMBER, ACCEPT)
            if fault is not None:
                self.apply(fault)
            if not self._closed and self._mode is not _Mode.SILENT:
                await self._connect(host, port)
            await asyncio.gather(*(self._pump(side) for side in tuple(self._ends)))
            for side in self._ends:
                await self._close(side)
        finally:
            for _, writer in self._ends.values():
                writer.transport.abort()  # before any wait, which a cancellation could end
            for side in self._ends:
                await self._close(side)

    async def _close(self, side: Side) -> None:
        _, writer = self._ends[side]
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async def _connect(self, host: str, port: int) -> None:
        try:
            self._ends[Side.SERVER] = await asyncio.open_connection(host, port)
        except OSError:  # the client was accepted already, so that a reset is the only way to refuse it
            self._record_closed(ClosedBy.SERVER, reset=True)
            self._reset(Side.CLIENT)

    def apply(self, fault: WireFault, message: Message | None = None) -> None:
        """Inject the fault instead of the message, or immediately if there is none."""
        self._faulted = True
        data = message.data if message is not None else b""
        receiver = message.sender.other if message is not None else Side.CLIENT
        match fault:
            case WireFault.REFUSE | WireFault.RESET:
                self._record_closed(ClosedBy.LAB, reset=True)
                for side in self._ends:
                    self._reset(side)
            case WireFault.CLOSE | WireFault.TRUNCATE:
                if fault is WireFault.TRUNCATE:
                    self._write(receiver, data[: len(data) // 2])
                self._record_closed(ClosedBy.LAB, reset=False)
                for side in self._ends:
                    self._end_writing(side)
            case WireFault.BLACK_HOLE | WireFault.GARBAGE:
                if fault is WireFault.GARBAGE:
                    self._write(receiver, GARBAGE)
            case WireFault.BYTE_AT_A_TIME:
                self._mode = _Mode.BYTE_AT_A_TIME
                return
        self._mode = _Mode.SILENT

    async def _pump(self, side: Side) -> None:
        """Read from one side until it closes."""
        reader, _ = self._ends[side]
        try:
            while data := await reader.read(_CHUNK_BYTES):
                for message in self._framer.feed(side, data):
                    await self._handle(message)
            for message in self._framer.rest(side):
                await self._handle(message)
        except OSError:
            self._on_closed(side, reset=True)
        else:
            self._on_closed(side, reset=False)

    async def _handle(self, message: Message) -> None:
        self.messages.append(message.name)
        if self._on_message is not None:
            self._on_message(self.number, message)
        if message.sender is Side.CLIENT:
            self._last_client_message = message.name
        fault = None if self._faulted else self._fault_at(len(self.messages), message.name)
        if fault is not None:
            self.apply(fault, message)
        if fault is None or fault is WireFault.BYTE_AT_A_TIME:
            await self._forward(message)

    async def _forward(self, message: Message) -> None:
        receiver = message.sender.other
        if self._mode is _Mode.SILENT:
            return
        if receiver not in self._ends:
            return  # the server refused the connection after the client had sent something
        if self._mode is _Mode.FORWARDING:
            self._write(receiver, message.data)
        else:
            for byte in message.data:
                self._write(receiver, bytes([byte]))
                for _ in range(2):  # lets a client in this event loop read the byte before the next one is sent
                    await asyncio.sleep(0)
        with suppress(OSError):  # the pump of that side reports it
            await self._ends[receiver][1].drain()

    def _on_closed(self, side: Side, *, reset: bool) -> None:
        """Close the other side in the same way."""
        if side is Side.CLIENT:
            self.open_by_client = False
        if self._mode is _Mode.SILENT and side is Side.SERVER:
            return  # the client must not notice
        self._record_closed(ClosedBy.of(side), reset=reset)
        if side.other not in self._ends:
            return
        if reset:
            self._reset(side.other)
        elif self._mode is _Mode.SILENT:
            self._ends[side.other][1].close()
        else:
            self._end_writing(side.other)

    def _record_closed(self, by: ClosedBy, *, reset: bool) -> None:
        """Record the first close; later ones follow from it."""
        if not self._closed and self._log is not None:
            self._log.record_closed(self._name, self.number, by=by, reset=reset, last=self._last_client_message)
        self._closed = True

    def _write(self, receiver: Side, data: bytes) -> None:
        if receiver in self._ends and receiver not in self._write_ended and not self._ends[receiver][1].is_closing():
            self._ends[receiver][1].write(data)

    def _end_writing(self, side: Side) -> None:
        """Send FIN. The side is still read until it closes as well."""
        _, writer = self._ends[side]
        self._write_ended.add(side)
        with suppress(OSError):  # it was reset just now; its pump reports that
            writer.write_eof()

    def _reset(self, side: Side) -> None:
        """Send RST."""
        _, writer = self._ends[side]
        if not writer.is_closing():
            linger = struct.pack("ii", 1, 0)  # with a linger time of zero, close() resets the connection
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
