"""Running the gateway: uvicorn, with a stop signal that works at any time, a drain, and a bound on the whole stop."""

import asyncio
import contextlib
import gc
import socket
from collections.abc import Callable, Generator
from typing import Any

import structlog
import uvicorn
import uvloop
from fastapi import FastAPI

from gateway.lifecycle import LifecycleStack, format_error
from gateway.process.listener import enable_address_reuse, on_loopback, url_of
from gateway.process.signals import DIED, FORCED, START_FAILED, STOPPED, UNCLEAN, ShutdownSignals
from gateway.process.watchdog import run
from gateway.serving.lifespan_manager import LifespanManager, StatefulApp
from gateway.settings import Settings

CLEAN_UP_WITHIN = 3.0
"""Seconds for the clean-up of requests that were cancelled, before what they use is released."""

log = structlog.get_logger("gateway.server")


Started = Callable[[LifecycleStack], object]


def serve(
    app: FastAPI,
    listener: socket.socket,
    settings: Settings,
    *,
    on_started: Started | None = None,
) -> tuple[int, Exception | None]:
    """Run the app until a signal stops it, or one of its entries dies. Return the exit status, and what went wrong.

    Args:
        app: has its stack in `app.state.stack` once its lifespan is entered.
        listener: a bound socket; it is closed at the end.
        settings: how long the stop and its parts may take.
        on_started: called after the startup, before the first request.
    """
    app.state.on_loopback = on_loopback(listener)  # for the keys: see `api/keys.py`
    return run(
        _Life(app, listener, settings, ShutdownSignals(settings.shutdown_timeout), on_started).run(),
        loop_factory=uvloop.new_event_loop,
    )


class _Uvicorn(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_listening: Callable[[], object]) -> None:
        super().__init__(config)
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_listening()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals alone: they are ours."""
        yield


class _Life:
    """One life of the process, from before the startup to after the teardown."""

    def __init__(
        self,
        app: FastAPI,
        listener: socket.socket,
        settings: Settings,
        signals: ShutdownSignals,
        on_started: Started | None,
    ) -> None:
        self._app = app
        self._listener = listener
        self._settings = settings
        self._signals = signals
        self._on_started = on_started
        self._lifespan = LifespanManager(app)
        self._uvicorn: _Uvicorn | None = None

    async def run(self) -> tuple[int, Exception | None]:
        """Start, serve until there is a reason to stop, and stop."""
        with self._listener, self._signals.installed():
            asked = asyncio.create_task(self._signals.asked.wait())
            forced = asyncio.create_task(self._abort_when_forced())
            try:
                status, error = await self._live(asked, forced)
            finally:
                asked.cancel()
                forced.cancel()
        return (FORCED if self._signals.forced.is_set() else status), error

    async def _live(self, asked: "asyncio.Task[Any]", forced: "asyncio.Task[Any]") -> tuple[int, Exception | None]:
        entering = asyncio.create_task(self._lifespan.startup())
        await asyncio.wait({entering, asked}, return_when=asyncio.FIRST_COMPLETED)
        if not entering.done():
            log.warning("asked to stop during the startup: giving everything back")
            entering.cancel()
        try:
            await entering
        except asyncio.CancelledError:
            return START_FAILED, None
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller reports it
            return START_FAILED, error
        try:
            await self._serve(asked, forced)
        finally:
            unclean = await self._leave()
        died = self._app.state.stack.failure.done()  # be it while it drained, or was released
        return (DIED if died else UNCLEAN if unclean else STOPPED), unclean

    async def _serve(self, asked: "asyncio.Task[Any]", forced: "asyncio.Task[Any]") -> None:
        """Serve until asked to stop, or until an entry dies. Return once the last request has ended."""
        settings = self._settings
        stack: LifecycleStack = self._app.state.stack
        if self._on_started is not None:
            self._on_started(stack)
        config = uvicorn.Config(
            StatefulApp(self._app, self._lifespan.state),
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # we ask nobody for an address
            server_header=False,
            timeout_graceful_shutdown=settings.graceful_seconds,  # type: ignore[arg-type]  # any number will do
        )
        server = self._uvicorn = _Uvicorn(config, self._say_that_it_serves)
        enable_address_reuse(self._listener)
        gc.freeze()  # what has come by now stays: no collection needs to look at it again
        serving = asyncio.create_task(server.serve([self._listener]))
        await asyncio.wait({serving, asked, stack.failure}, return_when=asyncio.FIRST_COMPLETED)

        stack.begin_shutdown()
        if stack.failure.done():
            log.critical("stopping: nothing runs on half a stack", error=format_error(stack.failure.result()))
        elif asked.done():
            log.info("asked to stop", drain_s=settings.drain_seconds)
            await asyncio.wait(
                {forced, stack.failure}, timeout=settings.drain_seconds, return_when=asyncio.FIRST_COMPLETED
            )
        server.should_exit = True
        await serving
        if cancelled := server.server_state.tasks:
            log.warning("requests had to be cancelled", requests=len(cancelled))
            await asyncio.wait(cancelled, timeout=CLEAN_UP_WITHIN)

    def _say_that_it_serves(self) -> None:
        log.info("serving", url=url_of(self._listener), a_stop_takes_at_most_s=self._settings.shutdown_timeout)

    async def _leave(self) -> Exception | None:
        try:
            await self._lifespan.shutdown()
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller reports it
            return error
        return None

    async def _abort_when_forced(self) -> None:
        await self._signals.forced.wait()
        log.warning("forced to stop: letting go of everything")
        if self._uvicorn is not None:
            self._uvicorn.force_exit = True
        stack: LifecycleStack | None = getattr(self._app.state, "stack", None)
        if stack is not None:
            stack.abort()
