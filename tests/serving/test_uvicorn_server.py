"""The undocumented parts of uvicorn that `UvicornServer` uses. These tests fail on the day uvicorn changes one of them."""

import asyncio
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from gateway.process.listener import bind_socket
from gateway.serving.uvicorn_server import UvicornServer
from tests.support.waiting import TIMEOUT


class HangingApp:
    """An app whose only request hangs. After a cancellation, its clean-up waits for `finish_cleanup`."""

    def __init__(self) -> None:
        self.in_flight = asyncio.Event()
        self.finish_cleanup = asyncio.Event()

    async def __call__(self, *_: object) -> None:
        self.in_flight.set()
        try:
            await asyncio.Event().wait()
        finally:
            await self.finish_cleanup.wait()


@asynccontextmanager
async def serving(server: UvicornServer, listening: asyncio.Event) -> AsyncGenerator[asyncio.Task[None]]:
    """Serve on a free port, connect to it once the server listens, and send a request. Yield the task of `serve()`."""
    with bind_socket("127.0.0.1", 0) as listener:
        address = listener.getsockname()
        task = asyncio.create_task(server.serve([listener]))
        try:
            async with asyncio.timeout(TIMEOUT):
                await listening.wait()
            _, writer = await asyncio.open_connection(*address)
            writer.write(b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n")
            yield task
            writer.close()
            await writer.wait_closed()
        finally:
            server.force_stop()
            await asyncio.wait({task}, timeout=TIMEOUT)


async def finish(app: HangingApp, server: UvicornServer) -> None:
    """End the request that hangs."""
    app.finish_cleanup.set()
    requests = server.requests
    for request in requests:
        request.cancel()
    await asyncio.wait(requests, timeout=TIMEOUT)


async def test_startup_is_the_moment_it_listens() -> None:
    """`on_listening` is called as soon as clients can connect: uvicorn calls the overridden `startup()`."""
    app, listening = HangingApp(), asyncio.Event()
    server = UvicornServer(app, graceful_timeout=60, on_listening=listening.set)

    async with serving(server, listening), asyncio.timeout(TIMEOUT):
        await app.in_flight.wait()
        await finish(app, server)


async def test_signal_handlers_stay() -> None:
    """The server installs no signal handlers: uvicorn calls the overridden `capture_signals()`."""
    app, listening = HangingApp(), asyncio.Event()
    server = UvicornServer(app, graceful_timeout=60, on_listening=listening.set)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    async with serving(server, listening), asyncio.timeout(TIMEOUT):
        await app.in_flight.wait()
        during = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        await finish(app, server)

    assert during == before


async def test_cancelled_requests_are_in_requests() -> None:
    """`serve()` returns while a cancelled request still cleans up, and `requests` has its task."""
    app, listening = HangingApp(), asyncio.Event()
    server = UvicornServer(app, graceful_timeout=0.1, on_listening=listening.set)

    async with serving(server, listening) as task, asyncio.timeout(TIMEOUT):
        await app.in_flight.wait()
        server.stop()
        await task
        requests = server.requests
        await finish(app, server)

    assert len(requests) == 1
    assert server.requests == set()


async def test_forced_stop_waits_for_no_request() -> None:
    """After `force_stop()`, `serve()` returns long before the graceful timeout, and cancels no request."""
    app, listening = HangingApp(), asyncio.Event()
    server = UvicornServer(app, graceful_timeout=10 * TIMEOUT, on_listening=listening.set)

    async with serving(server, listening) as task, asyncio.timeout(TIMEOUT):
        await app.in_flight.wait()
        server.stop()
        server.force_stop()
        await task
        cancellations = [request.cancelling() for request in server.requests]
        await finish(app, server)

    assert cancellations == [0]
