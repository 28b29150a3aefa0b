"""One entry of a lifecycle stack: a context manager that a task of its own enters, keeps open and exits."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

from .cancellation import finish_despite_cancellation, raise_if_cancelled
from .errors import EntryCrashedError, StartTimeoutError, StopTimeoutError
from .journal import EventType, Journal

T = TypeVar("T")

ABORT_GRACE = 0.25  # time for the owner task to end after an abort
CANCEL_ATTEMPTS = 5  # cancellations of the owner task in that time

Abort = Callable[[], object]
Check = Callable[[], Awaitable[str | None]]


class Entry(Generic[T]):
    """A context manager that one task, its owner, enters, keeps open and exits.

    The same task does all three, so task groups and cancel scopes inside the context manager work. Cancelling the
    caller never interrupts a close that is in progress.
    """

    def __init__(
        self,
        name: str,
        manager: AbstractAsyncContextManager[T],
        *,
        stop_timeout: float,
        journal: Journal,
        failure: "asyncio.Future[EntryCrashedError]",
        abort: Abort | None = None,
        check: Check | None = None,
    ) -> None:
        """Start the owner task, which begins to enter `manager`.

        All entries of a stack share `failure`. The first active entry that crashes sets its result.
        """
        loop = asyncio.get_running_loop()
        self.name = name
        self.stop_timeout = stop_timeout
        self.check = check
        self.errors: list[Exception] = []  # raised during the release
        self.crashed = False  # the owner task ended while the entry was active, so the context manager has exited
        self._manager = manager
        self._journal = journal
        self._failure = failure
        self._abort = abort
        self._entered: asyncio.Future[T] = loop.create_future()
        self._release_requested = asyncio.Event()
        self._abort_requested: asyncio.Future[None] = loop.create_future()
        self._owner_error: BaseException | None = None
        journal.record(EventType.ENTERING, name)
        self._owner = asyncio.create_task(self._run(), name=f"owner of {name}")
        self._owner.add_done_callback(self._on_owner_exit)

    async def _run(self) -> None:
        try:
            async with self._manager as value:
                raise_if_cancelled()  # some libraries swallow a cancellation and continue
                self._journal.record(EventType.ENTERED, self.name)
                self._entered.set_result(value)
                await self._release_requested.wait()
        except BaseException as error:
            self._owner_error = error
            raise

    def _on_owner_exit(self, owner: asyncio.Task[None]) -> None:
        if not owner.cancelled():
            owner.exception()  # mark it as retrieved: `_owner_error` has it
        if self._entered.done() and not self._release_requested.is_set():
            self.crashed = True
            self._journal.record(EventType.CRASHED, self.name, self._owner_error)
            if not self._failure.done():
                self._failure.set_result(EntryCrashedError(self.name, self._owner_error))

    @property
    def is_active(self) -> bool:
        """True while the entry is entered and has not exited."""
        return self._entered.done() and not self._owner.done()

    async def enter(self, timeout: float) -> T:
        """Wait until the entry is active and return its value. If this raises, the entry has been released.

        Raises:
            asyncio.CancelledError: the caller was cancelled.
            StartTimeoutError: the entry was not entered within `timeout` seconds.
            EntryCrashedError: the owner task, or an entry that was active, ended unexpectedly.
            ForcedShutdownError: the entry was aborted.
            Exception: the context manager raised it.
        """
        events: set[asyncio.Future[Any]] = {self._owner, self._entered, self._abort_requested, self._failure}
        try:
            await asyncio.wait(events, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError as cancelled:
            self._journal.record(EventType.ENTER_CANCELLED, self.name)
            await finish_despite_cancellation(self._rollback())
            raise cancelled from None
        error = self._start_error(timeout)
        if error is None:
            return self._entered.result()
        self._journal.record(EventType.ENTER_FAILED, self.name, error)
        cancelled_meanwhile = await finish_despite_cancellation(self._rollback())
        if isinstance(error, StartTimeoutError) and self._owner_error is not None:
            # Retry loops raise `CancelledError` from the last failure: that failure explains the timeout.
            by_rollback = isinstance(self._owner_error, asyncio.CancelledError)
            error.__cause__ = self._owner_error.__cause__ if by_rollback else self._owner_error
        if cancelled_meanwhile is not None:
            raise cancelled_meanwhile from error
        raise error

    def _start_error(self, timeout: float) -> BaseException | None:
        """Return why the entry did not become active, or None if it did."""
        if self._failure.done():
            return self._failure.result()
        if self._abort_requested.done():
            return self.errors.pop()  # the reason of the abort is the start error, not a teardown error
        if self._entered.done():
            return None
        if not self._owner.done():
            return StartTimeoutError(f"not entered within {timeout:.3g} s")
        if self._owner_error is None or isinstance(self._owner_error, asyncio.CancelledError):
            # The caller was not cancelled, so the error must not look like a cancellation.
            return EntryCrashedError(self.name, self._owner_error)
        return self._owner_error

    async def _rollback(self) -> None:
        """Release what a failed start has acquired, within the stop timeout."""
        if self.is_active:
            await self.exit(self.stop_timeout)
        elif not self._owner.done():
            self._owner.cancel()
            await self._wait_or_abort(self.stop_timeout)

    async def exit(self, timeout: float) -> None:
        """Release the entry, or abort it after `timeout` seconds. Errors are appended to `errors`, not raised."""
        if self.crashed:
            return
        if not self._abort_requested.done():
            self._release_requested.set()
            self._journal.record(EventType.EXITING, self.name)
        await self._wait_or_abort(timeout)
        if self._abort_requested.done():
            return
        if self._owner_error is None:
            self._journal.record(EventType.EXITED, self.name)
        else:
            self._record_exit_error(self._owner_error)

    async def _wait_or_abort(self, timeout: float) -> None:
        """Wait until the owner task ends. Abort it after `timeout` seconds."""
        events: set[asyncio.Future[None]] = {self._owner, self._abort_requested}
        await asyncio.wait(events, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if self._owner.done():
            return
        self.abort(StopTimeoutError(f"{self.name} was not released within {timeout:.3g} s"))
        for _ in range(CANCEL_ATTEMPTS):
            await asyncio.wait({self._owner}, timeout=ABORT_GRACE / CANCEL_ATTEMPTS)
            self._owner.cancel()  # one cancellation ends one `await`, and a clean-up may have several
        self._call_abort()  # the owner may have acquired more between the abort and its end
        if not self._owner.done():
            self._journal.record(EventType.ABANDONED, self.name)

    def abort(self, reason: Exception) -> None:
        """Release by force, without waiting: cancel the owner task and drop the transports."""
        if self._owner.done() or self._abort_requested.done():
            return
        self._release_requested.set()
        self._abort_requested.set_result(None)
        self.errors.append(reason)
        self._journal.record(EventType.ABORTED, self.name, reason)
        self._owner.cancel()
        self._call_abort()

    def _call_abort(self) -> None:
        if self._abort is not None:
            try:
                self._abort()
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the other entries are released anyway
                self._abort = None
                self._record_exit_error(error)

    def _record_exit_error(self, error: BaseException) -> None:
        self._journal.record(EventType.EXIT_FAILED, self.name, error)
        self.errors.append(error if isinstance(error, Exception) else EntryCrashedError(self.name, error))
