"""The servers and the client of the tutorial.

A client sends HELLO and is connected once the server has responded. Before it disconnects, it sends QUIT. The server
records that, so that the timelines show its view of a connection and not that of the lifespan.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Self

from gateway.lifecycle import Span, format_error

RESPONSE_TIME = 0.06
SERVING_TIME = 0.2
SECONDS_PER_COLUMN = 0.02


class Server:
    """A server on loopback with one client."""

    def __init__(self, name: str, **responses: str | None) -> None:
        """Open nothing yet.

        Args:
            name: its name in the output.
            responses: the response to each command, `OK` by default. None lets the client wait.
        """
        self.name = name
        self.port = 0
        self.received = {command: asyncio.Event() for command in ("HELLO", "SET", "QUIT")}
        self.connections: list[Connection] = []
        self._responses: dict[str, str | None] = {"HELLO": "OK", "SET": "OK", "QUIT": "OK", **responses}
        self._span: Span | None = None
        self._has_quit = False
        self._handlers: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._started_at = asyncio.get_running_loop().time()
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_exc_details: object) -> None:
        self._listener.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._handlers)

    @property
    def now(self) -> float:
        """Seconds since the start of the server."""
        return asyncio.get_running_loop().time() - self._started_at

    async def notice_disconnects(self) -> None:
        """Wait until no client is connected, at most 0.2 s: a closed connection is noticed a moment later."""
        await asyncio.wait(self._handlers, timeout=0.2)

    def timeline(self, end: float) -> str:
        """Draw the connection until `end`: `░` opening, `█` open, `▒` closing."""
        width = round(end / SECONDS_PER_COLUMN)
        bar, outcome = (self._span.bar(end, width), self._span.outcome) if self._span else (" " * width, "never called")
        return f"  {self.name:8}  {bar}  {outcome}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if task := asyncio.current_task():
            self._handlers.add(task)
        self._writers.append(writer)
        span = self._span = Span(self.name, self.now, outcome="still opening")
        with contextlib.suppress(ConnectionError):  # the client has aborted the connection
            while line := (await reader.readline()).decode().strip():
                await self._respond(line, span, writer)
        span.exited = self.now
        if span.outcome.startswith("still"):
            span.outcome = "closed" if self._has_quit else "dropped"
        writer.close()

    async def _respond(self, line: str, span: Span, writer: asyncio.StreamWriter) -> None:
        command = line.split(maxsplit=1)[0]
        self.received[command].set()
        if command == "QUIT":
            span.exiting, span.outcome = self.now, "still closing"
        response = self._responses[command]
        if response is None:
            return
        await asyncio.sleep(RESPONSE_TIME)
        writer.write(f"{response}\n".encode())
        if command == "HELLO":
            span.outcome = f"rejected: {response}"
            if response == "OK":
                span.entered, span.outcome = self.now, "still open"
        elif command == "SET":
            print(f"  {self.name} has received: {line}")
        else:
            self._has_quit = True


class ServerError(Exception):
    """The response of a server is not OK."""


class Connection:
    """A connection whose close waits for the server, as that of most libraries."""

    def __init__(self, server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server, self._reader, self._writer = server, reader, writer
        server.connections.append(self)

    async def call(self, command: str) -> None:
        """Send a command and wait for its response.

        Raises:
            ConnectionError: the connection is closed.
            ServerError: the response is not OK.
        """
        self._check(await self._call(command))

    async def close(self) -> None:
        response = await self._call("QUIT")
        self._writer.close()
        self._check(response)

    def abort(self) -> None:
        """Close the socket without a QUIT."""
        self._writer.transport.abort()

    async def _call(self, command: str) -> str:
        if self._writer.is_closing():
            raise ConnectionError(f"the connection to {self._server.name} is closed")
        self._writer.write(f"{command}\n".encode())
        return (await self._reader.readline()).decode().strip()

    def _check(self, response: str) -> None:
        if response != "OK":
            raise ServerError(f"{self._server.name}: {response}")


async def connect(server: Server) -> Connection:
    connection = Connection(server, *await asyncio.open_connection("127.0.0.1", server.port))
    try:
        await connection.call("HELLO")
    except BaseException:
        connection.abort()
        raise
    return connection


class Client:
    """A connection as a context manager. `abort` closes its socket immediately."""

    def __init__(self, server: Server) -> None:
        self.name = server.name
        self._server = server
        self._connection: Connection | None = None

    async def __aenter__(self) -> Connection:
        self._connection = await connect(self._server)
        return self._connection

    async def __aexit__(self, *_exc_details: object) -> None:
        if self._connection is not None:
            await self._connection.close()

    def abort(self) -> None:
        if self._connection is not None:
            self._connection.abort()


Lifespan = Callable[..., AbstractAsyncContextManager[object]]
Fault = Callable[["asyncio.Task[None]"], Awaitable[None]]


async def run(lifespan: Lifespan, *servers: Server, fault: Fault | None = None, limit: float = 30) -> None:
    """Run a lifespan - startup, 0.2 s serving, teardown - and print the timelines of its servers and its result.

    Args:
        lifespan: called with the servers.
        servers: started before the lifespan and stopped after it.
        fault: called with the task of the lifespan when it has begun.
        limit: seconds until the run is given up.
    """
    print(f"\n{lifespan.__name__}")

    async def serve() -> None:
        async with lifespan(*servers):
            await asyncio.sleep(SERVING_TIME)

    async with AsyncExitStack() as stack:
        for server in servers:
            await stack.enter_async_context(server)
        task = asyncio.create_task(serve())
        if fault is not None:
            await fault(task)
        await asyncio.wait({task}, timeout=limit)
        end = servers[0].now
        for server in servers:
            await server.notice_disconnects()
        print(*(server.timeline(end) for server in servers), *_result(task, end), sep="\n")
        task.cancel()
        await asyncio.wait({task})
        for server in servers:
            for connection in server.connections:
                connection.abort()  # the kernel does that when a process ends


def _result(task: "asyncio.Task[None]", end: float) -> list[str]:
    if not task.done():
        return [f"  not stopped after {end:.2f} s"]
    if task.cancelled():
        return [f"  cancelled after {end:.2f} s"]
    error = task.exception()
    if error is None:
        return [f"  stopped after {end:.2f} s"]
    lines = [f"  failed after {end:.2f} s", f"  {format_error(error)}"]
    lines += [f"    {format_error(part)}" for part in getattr(error, "exceptions", [])]
    return lines + [f"    note: {note}" for note in getattr(error, "__notes__", [])]
