"""The undocumented parts of uvicorn that `UvicornServer` uses. These tests fail if uvicorn changes one of them."""

import asyncio
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.types import Receive, Scope, Send

from gateway.serving.uvicorn_server import UvicornServer
from tests.serving.running_server import REQUEST, running_server
from tests.support.waiting import TIMEOUT


class HangingApp:
    """An app whose only request hangs, and whose clean-up after a cancellation hangs, too, until `end()`."""

    def __init__(self) -> None:
        self.in_flight = asyncio.Event()
        self._finish_cleanup = asyncio.Event()
        self._request: asyncio.Task[None] | None = None

    async def __call__(self, _scope: Scope, _receive: Receive, _send: Send) -> None:
        self._request = asyncio.current_task()
        self.in_flight.set()
        try:
            await asyncio.Event().wait()
        finally:
            await self._finish_cleanup.wait()

    async def end(self) -> None:
        """End the request."""
        self._finish_cleanup.set()
        if self._request is not None:
            self._request.cancel()
            await asyncio.wait({self._request}, timeout=TIMEOUT)


@asynccontextmanager
async def serving(*, graceful_timeout: float) -> AsyncGenerator[tuple[UvicornServer, asyncio.Task[None]]]:
    """Serve a `HangingApp` on a free port with a request in flight. Yield the server and the task of its `serve()`."""
    app = HangingApp()
    async with running_server(app, graceful_timeout=graceful_timeout) as running:
        try:
            (await running.connect()).write(REQUEST)
            async with asyncio.timeout(TIMEOUT):
                await app.in_flight.wait()
            yield running.server, running.task
        finally:
            running.server.force_stop()
            await app.end()


async def test_listens_after_startup() -> None:
    """The server calls the overridden `startup()`, after which a client can connect."""
    async with serving(graceful_timeout=60) as (_, task):
        assert not task.done()


async def test_signal_handlers_stay() -> None:
    """The server calls the overridden `capture_signals()`, and so installs no signal handlers."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    async with serving(graceful_timeout=60):
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


async def test_requests_that_still_clean_up() -> None:
    """`serve()` returns while a cancelled request still cleans up, and `requests` has its task."""
    async with serving(graceful_timeout=0.1) as (server, task):
        server.stop()
        async with asyncio.timeout(TIMEOUT):
            await task

        assert [request.cancelling() for request in server.requests] == [1]
    assert server.requests == set()


async def test_forced_stop_waits_for_no_request() -> None:
    """After `force_stop()`, `serve()` returns long before the graceful timeout, and does not cancel the request."""
    async with serving(graceful_timeout=10 * TIMEOUT) as (server, task):
        server.stop()
        server.force_stop()
        async with asyncio.timeout(TIMEOUT):
            await task

        assert [request.cancelling() for request in server.requests] == [0]
