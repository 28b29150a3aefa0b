"""The ASGI scopes that a server drives: the lifespan, and the requests that get its state."""

import asyncio
from collections.abc import Awaitable
from types import TracebackType
from typing import Any, Self

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.failed_responses import FailedResponses
from gateway.api.problem_types import UNAVAILABLE
from gateway.api.problems import problem


class LifespanManager:
    """Starts the lifespan of an ASGI app and shuts it down, once. As an async context manager it does both.

    Attributes:
        state: the value that the lifespan yielded, after the startup.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._startup_sent = False
        self._started = asyncio.Event()
        self._shutdown_requested = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def startup(self) -> None:
        """Start the lifespan. If this is cancelled, the startup is cancelled and everything is released.

        Raises:
            Exception: the app raised it instead of starting.
        """
        self._task = asyncio.create_task(self._run(), name="lifespan")
        started = asyncio.create_task(self._started.wait())
        try:
            await asyncio.wait({self._task, started}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._task.cancel()
            await asyncio.wait({self._task})
            raise
        finally:
            started.cancel()
        if self._task.done():
            self._task.result()

    async def shutdown(self) -> None:
        """Shut the lifespan down.

        Raises:
            Exception: the app raised it instead of stopping cleanly, or has raised it since the startup.
        """
        if self._task is not None:
            self._shutdown_requested.set()
            await self._task

    async def __aenter__(self) -> Self:
        await self.startup()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.shutdown()

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        await self._app(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if not self._startup_sent:
            self._startup_sent = True
            return {"type": "lifespan.startup"}
        await self._shutdown_requested.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "lifespan.startup.complete":
            self._started.set()


class StatefulApp:
    """The app with the state of its lifespan in each request, and with a 503 response to a cancelled request.

    `failed_responses` records these responses, except those to clients that have disconnected.
    """

    def __init__(self, app: ASGIApp, state: dict[str, Any], failed_responses: FailedResponses | None = None) -> None:
        self._app = app
        self._state = state
        self._failed_responses = failed_responses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"] = self._state.copy()
        response_started = False

        def send_response(message: Message) -> Awaitable[None]:
            nonlocal response_started
            response_started = True
            return send(message)

        try:
            await self._app(scope, receive, send_response)
        except asyncio.CancelledError:
            if response_started:
                raise
            headers = {"X-Request-ID": scope["request_id"]} if "request_id" in scope else None
            detail = "The gateway is shutting down. Send the request again."
            stopping = problem(UNAVAILABLE, detail, scope, headers=headers)
            if self._failed_responses is not None and not scope["state"].get("disconnected"):
                self._failed_responses.record(stopping.status_code, scope, bytes(stopping.body))
            await stopping(scope, receive, send)
