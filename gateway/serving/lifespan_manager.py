"""The two ASGI scopes as our server drives them: the lifespan, and the requests that get its state."""

import asyncio
from collections.abc import Awaitable
from http import HTTPStatus
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.problems import problem


class LifespanManager:
    """Enters and leaves the lifespan of an app, once."""

    def __init__(self, app: ASGIApp) -> None:
        self.state: dict[str, Any] = {}
        """What the lifespan yielded, for each request."""
        self._app = app
        self._begun = False
        self._started = asyncio.Event()
        self._leaving = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def startup(self) -> None:
        """Return once the app has started. A cancellation of this ends the startup, and everything is given back then.

        Raises:
            Exception: what the app raised instead of starting.
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
        """Return once the app has stopped.

        Raises:
            Exception: what went wrong while it did.
        """
        if self._task is not None:
            self._leaving.set()
            await self._task

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        await self._app(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if not self._begun:
            self._begun = True
            return {"type": "lifespan.startup"}
        await self._leaving.wait()
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "lifespan.startup.complete":
            self._started.set()


class StatefulApp:
    """The app as the server calls it: each request has the state of the lifespan, and an answer even when it is cancelled."""

    def __init__(self, app: ASGIApp, state: dict[str, Any]) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"] = self._state.copy()
        responded = False

        def send_and_note(message: Message) -> Awaitable[None]:
            nonlocal responded
            responded = True
            return send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except asyncio.CancelledError:
            if responded:
                raise
            headers = {"X-Request-ID": scope["request_id"]} if "request_id" in scope else None
            stopping = problem(
                HTTPStatus.SERVICE_UNAVAILABLE, "The gateway is stopping. Send it again.", headers=headers
            )
            await stopping(scope, receive, send)
