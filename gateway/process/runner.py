"""The run of a process, from the startup to the exit status.

`gateway serve` and `gateway worker` differ only in their lifespan and their body.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple

import structlog
import uvloop

from gateway.lifecycle import LifecycleStack, TeardownError, format_error
from gateway.process.exit_status import ExitStatus
from gateway.process.signals import ShutdownSignals
from gateway.process.watchdog import run_without_waiting_for_threads

log = structlog.get_logger("gateway.process")


class ProcessResult(NamedTuple):
    """The result of a process.

    Attributes:
        status: its exit status.
        error: the error of the startup or of the shutdown.
    """

    status: ExitStatus
    error: Exception | None


def run_process(
    lifespan: AbstractAsyncContextManager[object],
    body: "Callable[[ProcessRunner], Awaitable[None]]",
    *,
    get_stack: Callable[[], LifecycleStack | None],
    shutdown_timeout: float,
) -> ProcessResult:
    """Run a process in a new event loop, as `ProcessRunner` describes."""

    async def run() -> ProcessResult:
        return await ProcessRunner(lifespan, body, get_stack=get_stack, shutdown_timeout=shutdown_timeout).run()

    return run_without_waiting_for_threads(run(), loop_factory=uvloop.new_event_loop)


class ProcessRunner:
    """Enters a lifespan, runs a body, and exits the lifespan.

    - The body works until `wait_for_shutdown()` returns: after a stop signal, or when an entry crashes.
    - A stop signal during the startup cancels the startup.
    - A second stop signal, at any time, aborts the stack of the lifespan.
    - If all this takes too long, the watchdog of the signals ends the process.

    Attributes:
        signals: the stop signals of the process.
        on_stopped: the body may set it. It is awaited after the lifespan, with the exit status.
    """

    def __init__(
        self,
        lifespan: AbstractAsyncContextManager[object],
        body: "Callable[[ProcessRunner], Awaitable[None]]",
        *,
        get_stack: Callable[[], LifecycleStack | None],
        shutdown_timeout: float,
    ) -> None:
        """Start nothing yet.

        Args:
            lifespan: entered and exited once, both in the same task.
            body: called with this runner after the startup. It calls `wait_for_shutdown()`, and ends its work after that.
            get_stack: returns the stack of the lifespan as soon as there is one.
            shutdown_timeout: seconds from the first signal to the end of the process.
        """
        self.signals = ShutdownSignals(shutdown_timeout=shutdown_timeout)
        self.on_stopped: Callable[[ExitStatus], Awaitable[None]] | None = None
        self._lifespan = lifespan
        self._body = body
        self._get_stack = get_stack
        self._started = False
        self._body_error: BaseException | None = None

    @property
    def stack(self) -> LifecycleStack:
        """The stack of the lifespan, after the startup."""
        stack = self._get_stack()
        if stack is None:
            raise RuntimeError("the lifespan has no stack")
        return stack

    async def run(self) -> ProcessResult:
        """Run the process once.

        Raises:
            Exception, asyncio.CancelledError: the body raised it, which is a bug. The lifespan has been exited.
        """
        with self.signals.installed():
            task = asyncio.create_task(self._run_lifespan(), name="lifespan and body")
            self.signals.requested.add_done_callback(lambda _: self._cancel_startup(task))
            self.signals.forced.add_done_callback(lambda _: self._abort())
            await asyncio.wait({task})
        error = None if task.cancelled() else task.exception()
        if self._body_error is not None:
            if error is not None:
                errors = error.exceptions if isinstance(error, TeardownError) else [error]
                self._body_error.add_note("the shutdown was not clean: " + "; ".join(map(format_error, errors)))
            raise self._body_error
        if error is not None and not isinstance(error, Exception):
            raise error
        status = self._status(error)
        if self.on_stopped is not None:
            await self.on_stopped(status)
        return ProcessResult(status, error)

    async def wait_for_shutdown(self, *tasks: "asyncio.Future[Any]") -> None:
        """Wait for a stop signal, the crash of an entry or the end of one of `tasks`. Then begin the shutdown of the stack."""
        failure = self.stack.failure
        reasons: set[asyncio.Future[Any]] = {self.signals.requested, failure, *tasks}
        await asyncio.wait(reasons, return_when=asyncio.FIRST_COMPLETED)
        self.stack.begin_shutdown()
        if failure.done():
            log.critical("entry crashed, shutting down", error=format_error(failure.result()))
        elif self.signals.requested.done():
            log.info("shutdown requested")

    async def _run_lifespan(self) -> None:
        async with self._lifespan:
            self._started = True
            try:
                await self._body(self)
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - run() raises it
                self._body_error = error

    def _cancel_startup(self, task: "asyncio.Task[None]") -> None:
        if not self._started:
            log.warning("shutdown requested during startup, cancelling it")
            task.cancel()

    def _abort(self) -> None:
        log.warning("forced shutdown, aborting")
        stack = self._get_stack()
        if stack is not None:
            stack.abort()

    def _status(self, error: Exception | None) -> ExitStatus:
        if self.signals.forced.done():
            return ExitStatus.FORCED
        if not self._started:
            return ExitStatus.START_FAILED
        if self.stack.failure.done():
            return ExitStatus.CRASHED
        return ExitStatus.OK if error is None else ExitStatus.UNCLEAN
