"""An address that moves from one server to another, as a virtual IP address or a load balancer does in a failover."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

_CHUNK_BYTES = 64 * 1024


class MovedAddress:
    """A port on the loopback interface that forwards to another port.

    Attributes:
        port: the port.
        target: the port to which new connections lead. Open connections keep their server.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self.target = target
        self._tasks: set[asyncio.Task[None]] = set()

    def _start(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._forward(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            with suppress(OSError):
                server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.target)
                writers.append(server_writer)
                await asyncio.gather(_pump(reader, server_writer), _pump(server_reader, writer))
        finally:
            for open_writer in writers:
                open_writer.transport.abort()

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def moved_address(target: int) -> AsyncGenerator[MovedAddress]:
    """Forward from a free port to the port `target`, for the duration of the block."""
    address = MovedAddress(target)
    listener = await asyncio.start_server(address._start, "127.0.0.1", 0)
    address.port = listener.sockets[0].getsockname()[1]
    try:
        yield address
    finally:
        listener.close()
        await address._end()
        await listener.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(_CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()
    writer.write_eof()
