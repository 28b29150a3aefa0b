"""A `UvicornServer` in this process, and clients that write bytes, because HTTP clients refuse to send invalid requests."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Self

from starlette.types import ASGIApp

from gateway.process.listener import bind_socket
from gateway.serving.admission import Admission
from gateway.serving.http_limits import HttpLimits
from gateway.serving.uvicorn_server import UvicornServer
from tests.support.waiting import TIMEOUT

REQUEST = b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n"


@dataclass
class Client:
    """A connection to a server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def write(self, data: bytes) -> Self:
        self.writer.write(data)
        return self

    async def read(self, end: bytes) -> bytes:
        """Return the next bytes up to `end`."""
        async with asyncio.timeout(TIMEOUT):
            return await self.reader.readuntil(end)

    async def read_to_end(self) -> bytes:
        """Return all bytes until the server closes the connection."""
        async with asyncio.timeout(TIMEOUT):
            return await self.reader.read()

    def reset(self) -> None:
        """Close the connection with a TCP reset."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    async def close(self) -> None:
        """Close the connection. Data that the server has not read is dropped, because it may read no more."""
        self.writer.transport.abort()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


@dataclass
class RunningServer:
    """A server that listens, and the task of its `serve()`."""

    server: UvicornServer
    task: "asyncio.Task[None]"
    port: int
    _clients: AsyncExitStack

    async def connect(self) -> Client:
        """Open a connection, which is closed at the end of the test."""
        async with asyncio.timeout(TIMEOUT):
            client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self._clients.push_async_callback(client.close)
        return client


@asynccontextmanager
async def running_server(
    app: ASGIApp,
    *,
    max_head_bytes: int = 32 * 1024,
    head_timeout: float = 60,
    max_connections: int = 1000,
    max_requests: int = 1000,
    exempt_paths: Sequence[str] = (),
    stream_paths: Sequence[str] = (),
    cors_origins: Sequence[str] = (),
    body_timeout: float = 60,
    write_timeout: float = 60,
    keep_alive_timeout: float = 60,
    graceful_timeout: float = 60,
    trusted_proxies: Sequence[str] = (),
    root_path: str = "",
) -> AsyncIterator[RunningServer]:
    """Serve the app on a free port inside the block."""
    listening = asyncio.Event()
    server = UvicornServer(
        app,
        limits=HttpLimits(
            max_head_bytes,
            head_timeout,
            max_connections,
            body_timeout,
            write_timeout,
            admission=Admission(max_requests),
            exempt_paths=frozenset(exempt_paths),
            stream_paths=frozenset(stream_paths),
            cors_origins=tuple(cors_origins),
        ),
        keep_alive_timeout=keep_alive_timeout,
        graceful_timeout=graceful_timeout,
        trusted_proxies=trusted_proxies,
        root_path=root_path,
        on_listening=listening.set,
    )
    with bind_socket("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        task = asyncio.create_task(server.serve([listener]))
        try:
            async with asyncio.timeout(TIMEOUT):
                await listening.wait()
            async with AsyncExitStack() as clients:
                yield RunningServer(server, task, port, clients)
        finally:
            server.force_stop()
            await asyncio.wait({task}, timeout=TIMEOUT)
