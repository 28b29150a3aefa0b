"""Background tasks, calls with a deadline, and waiting: a thin layer over asyncio that the other packages share."""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import structlog

T = TypeVar("T")

CANCEL_RETRY_INTERVAL = 0.1  # seconds between repeated cancellations of a task that ignores them
INITIAL_DELAY = 0.05  # seconds, of a `Backoff`
MAX_DELAY = 1.0

log = structlog.get_logger("gateway.concurrency")


class PoolClosedError(ConnectionError):
    """The pool is closed, and has not started the task."""

    def __init__(self) -> None:
        super().__init__("the task pool is closed")


class TaskPool:
    """Owns tasks that may run longer than the callers that started them, and ends all of them in `aclose()`."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def __len__(self) -> int:
        """The number of tasks that have not ended."""
        return len(self._tasks)

    def start(self, coro: Coroutine[Any, Any, T], *, name: str | None = None) -> asyncio.Task[T]:
        """Run `coro` as a task of the pool. The caller may cancel it, wait for it or forget it.

        Raises:
            PoolClosedError: `aclose()` was called.
        """
        if self._closed:
            coro.close()
            raise PoolClosedError
        task = asyncio.create_task(coro, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return task

    def spawn(self, coro: Coroutine[Any, Any, None]) -> None:
        """Run `coro` in the background. It must handle its own errors: an exception is logged as a bug.

        A closed pool does not run it.
        """
        with suppress(PoolClosedError):
            self.start(coro).add_done_callback(_log_failure)

    def call(self, coro: Coroutine[Any, Any, T], *, timeout: float) -> "asyncio.Future[T]":
        """Run `coro` with a deadline that holds even if it ignores its cancellation.

        Client libraries may take long to release a connection after a cancellation. The returned future does not wait for
        that. Cancelling it, or a task that awaits it, cancels the call.

        The future raises:
            TimeoutError: there is no result after `timeout` seconds.
            ConnectionError: the pool is closed, or the client library cancelled its own call, as some do on a lost
                connection.
            Exception: the exception of `coro`.
        """
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()
        try:
            task = self.start(coro)
        except PoolClosedError as error:
            return failed_future(error)

        def expire() -> None:
            if not result.done():
                result.set_exception(TimeoutError(f"no response within {timeout:.3g} s"))

        def copy_result(task: asyncio.Task[T]) -> None:
            error = None if task.cancelled() else task.exception()
            if result.done():
                pass  # it has timed out or was cancelled
            elif task.cancelled():
                result.set_exception(ConnectionError("the call was cancelled by the client library"))
            elif error is not None:
                result.set_exception(error)
            else:
                result.set_result(task.result())

        def clean_up(_: object) -> None:
            timer.cancel()
            task.cancel()  # no effect if it is done

        timer = loop.call_later(timeout, expire)
        task.add_done_callback(copy_result)
        result.add_done_callback(clean_up)
        return result

    async def wait(self, *, timeout: float) -> None:
        """Wait until no task is left, at most `timeout` seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)

    async def cancel(self, *, timeout: float) -> None:
        """Cancel all tasks, and wait until they have ended, at most `timeout` seconds."""
        for task in self._tasks:
            task.cancel()
        await self.wait(timeout=timeout)

    async def aclose(self, *, drain_timeout: float = CANCEL_RETRY_INTERVAL) -> None:
        """Reject further tasks, wait `drain_timeout` seconds for the tasks, and cancel the rest until all have ended."""
        self._closed = True
        await self.wait(timeout=drain_timeout)
        while self._tasks:
            await self.cancel(timeout=CANCEL_RETRY_INTERVAL)

    def _on_done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        _mark_retrieved(task)


def failed_future(error: Exception) -> "asyncio.Future[Any]":
    """Return a future that has failed. asyncio does not complain if no caller awaits it."""
    future = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    _mark_retrieved(future)
    return future


@asynccontextmanager
async def background_task(
    coro: Coroutine[Any, Any, None],
    *,
    name: str,
    stop: Callable[[], object] | None = None,
    stop_timeout: float = 0,
    abort: Callable[[], object] | None = None,
) -> AsyncGenerator[None]:
    """Run `coro` in the background for the duration of the block. If it fails, cancel the block, and raise its error.

    A coroutine that returns or cancels itself before the end of the block has failed, too.

    Args:
        coro: runs until it is stopped or cancelled.
        name: the name of its task.
        stop: called at the end of the block. It makes `coro` return.
        stop_timeout: the seconds that `coro` has to return before it is cancelled.
        abort: called last, even if `coro` has returned. It drops resources that could delay the end of `coro`.
    """
    stopping = False

    async def run() -> None:
        try:
            await coro
        except asyncio.CancelledError as error:
            if task.cancelling():
                raise
            raise RuntimeError(f"{name} cancelled itself") from error
        if not stopping:
            raise RuntimeError(f"{name} ended unexpectedly")

    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(run(), name=name)
            try:
                yield
            finally:
                stopping = True
                try:
                    if stop is not None:
                        stop()
                    await asyncio.wait({task}, timeout=stop_timeout)
                finally:
                    task.cancel()
                    if abort is not None:
                        abort()
    except BaseExceptionGroup as group_error:
        if len(group_error.exceptions) > 1:
            raise
        (error,) = group_error.exceptions
        raise error from error.__cause__


class Backoff:
    """Delays that double with each attempt up to `MAX_DELAY`, with jitter, so that processes do not retry in step."""

    def __init__(self) -> None:
        self._delay = INITIAL_DELAY
        self.attempts = 0

    def next_delay(self) -> float:
        """Count an attempt, and return the seconds to wait before the next one."""
        self.attempts += 1
        delay, self._delay = self._delay, min(self._delay * 2, MAX_DELAY)
        return delay * random.uniform(0.5, 1)  # noqa: S311 - jitter is no secret

    def reset(self) -> None:
        """Begin again with the first delay."""
        self._delay, self.attempts = INITIAL_DELAY, 0


async def wait_for_event(event: asyncio.Event, *, timeout: float) -> None:
    """Return when the event is set, or after `timeout` seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            await event.wait()


async def wait_for_any(*events: asyncio.Event) -> None:
    """Return when one of the events is set."""
    waiters = {asyncio.create_task(event.wait()) for event in events}
    try:
        await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            waiter.cancel()


def _mark_retrieved(future: "asyncio.Future[Any]") -> None:
    """Keep asyncio from reporting an exception that no caller retrieves."""
    if not future.cancelled():
        future.exception()


def _log_failure(task: "asyncio.Task[None]") -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        log.error("background task failed", exc_info=error)
