"""Streams: responses that show a shutdown to its end, so the server does not wait for them."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from tests.serving.running_server import REQUEST, Client, RunningServer, running_server
from tests.support.waiting import TIMEOUT, wait_until

STREAM = REQUEST.replace(b"GET / ", b"GET /stream ")
HELD = REQUEST.replace(b"GET / ", b"GET /held ")


class StreamingApp:
    """Sends the start of a stream, and its end once `end` is set. Other paths get a short response, `/held` after `release`."""

    def __init__(self) -> None:
        self.end = asyncio.Event()
        self.is_held = asyncio.Event()
        self.release = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/held":
            self.is_held.set()
            await self.release.wait()
        is_stream = scope["path"] == "/stream"
        response = StreamingResponse(self._parts()) if is_stream else PlainTextResponse("short")
        await response(scope, receive, send)

    async def _parts(self) -> AsyncIterator[str]:
        yield "start"
        await self.end.wait()
        yield "end"


@pytest.fixture
def app() -> StreamingApp:
    return StreamingApp()


@pytest.fixture
async def server(app: StreamingApp) -> AsyncIterator[RunningServer]:
    """A server that accepts one request at a time, besides the streams."""
    paths = ("/stream",)
    async with running_server(app, max_requests=1, exempt_paths=paths, stream_paths=paths) as server:
        yield server


async def open_stream(server: RunningServer) -> Client:
    client = (await server.connect()).write(STREAM)
    await client.read(b"start\r\n")
    return client


async def stop(server: RunningServer) -> None:
    """Stop the server, whose timeout for requests in flight is longer than that of this function."""
    server.server.stop()
    async with asyncio.timeout(TIMEOUT):
        await server.task


async def test_is_no_request_in_progress(server: RunningServer) -> None:
    """A stream takes the place of no request."""
    await open_stream(server)
    response = await (await server.connect()).write(REQUEST).read(b"short")

    assert response.startswith(b"HTTP/1.1 200 ")
    assert server.server.requests == set()


async def test_outlasts_the_server(app: StreamingApp, server: RunningServer) -> None:
    """The shutdown of the server does not wait for a stream. The client gets its end, and then the connection is closed."""
    client = await open_stream(server)
    await stop(server)
    app.end.set()
    await server.server.end_streams(60)

    assert (await client.read_to_end()).endswith(b"end\r\n0\r\n\r\n")


async def test_pipelined_before_the_shutdown(app: StreamingApp, server: RunningServer) -> None:
    """The shutdown does not wait for a stream that begins after it, because its request follows another one on its connection."""
    client = (await server.connect()).write(HELD + STREAM)
    await app.is_held.wait()
    server.server.stop()
    await wait_until(lambda: not server.server.servers, "the server has closed its listener")
    app.release.set()
    await stop(server)
    app.end.set()
    await server.server.end_streams(60)

    assert (await client.read_to_end()).endswith(b"end\r\n0\r\n\r\n")


async def test_is_dropped(server: RunningServer) -> None:
    """A stream that does not end in time is dropped."""
    client = await open_stream(server)
    await stop(server)
    await server.server.end_streams(0.01)

    assert (
        await client.read_to_end() == b""
    )  # without the last chunk, so that a client knows that the stream is incomplete


async def test_forced_stop(server: RunningServer) -> None:
    """A forced stop drops the streams."""
    client = await open_stream(server)
    server.server.force_stop()

    assert (
        await client.read_to_end() == b""
    )  # without the last chunk, so that a client knows that the stream is incomplete


async def test_connection_stays(app: StreamingApp, server: RunningServer) -> None:
    """Without a shutdown, the connection of a stream is used for further requests."""
    client = await open_stream(server)
    app.end.set()
    await client.read(b"0\r\n\r\n")
    response = await client.write(STREAM).read(b"0\r\n\r\n")

    assert response.startswith(b"HTTP/1.1 200 ")
