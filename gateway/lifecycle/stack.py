"""The stack: an `AsyncExitStack` whose entries have a name, timeouts, a journal and an owner task each."""

import asyncio
import math
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from enum import StrEnum
from functools import partial
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from .cancellation import finish_despite_cancellation
from .entry import Abort, Check, Entry
from .errors import EntryCrashedError, ForcedShutdownError, StartError, StartTimeoutError, TeardownError
from .journal import EventType, Journal, format_error

T = TypeVar("T")

MIN_STOP_TIMEOUT = 0.05  # every entry gets this long to exit, even after the shutdown deadline


class Phase(StrEnum):
    """The phases of a run, in order."""

    STARTING = "starting"
    STARTED = "started"
    STOPPING = "stopping"
    STOPPED = "stopped"


class LifecycleStack(AsyncExitStack):
    """Owns several resources: enters them in order and releases them in reverse order, whatever fails.

    Entries made by `enter` have the guarantees of this package. Inherited methods behave as on any `AsyncExitStack`;
    both share one release order.
    """

    def __init__(
        self,
        *,
        startup_timeout: float = math.inf,
        shutdown_timeout: float = math.inf,
        journal: Journal | None = None,
    ) -> None:
        """Create a stack without entries.

        Args:
            startup_timeout: seconds for the whole startup, from now until `mark_started()`. Each `enter` enforces it.
            shutdown_timeout: seconds for the whole shutdown, from `begin_shutdown()` or else from the exit of the stack.
            journal: records the events; a new one by default.
        """
        super().__init__()
        self.journal = Journal() if journal is None else journal
        self.phase = Phase.STARTING
        self.entries: list[Entry[Any]] = []
        self._startup_timeout = startup_timeout
        self._startup_deadline = self.journal.now + startup_timeout
        self._teardown = _Teardown(shutdown_timeout, self.journal)
        self._failure: asyncio.Future[EntryCrashedError] | None = None

    @property
    def failure(self) -> "asyncio.Future[EntryCrashedError]":
        """A future that is done as soon as an active entry has crashed. The process should stop then.

        Wait for it with `asyncio.wait`, which does not cancel it.
        """
        if self._failure is None:
            self._failure = asyncio.get_running_loop().create_future()
        return self._failure

    @property
    def ready(self) -> bool:
        """True while the startup is complete, no shutdown has begun and no entry has crashed."""
        return self.phase is Phase.STARTED and not self.failure.done()

    async def enter(
        self,
        name: str,
        manager: AbstractAsyncContextManager[T],
        *,
        start_timeout: float,
        stop_timeout: float,
        abort: Abort | None = None,
        check: Check | None = None,
    ) -> T:
        """Enter `manager` in a task of its own, register its release and return its value.

        Args:
            name: the entry's name in the journal and in errors.
            manager: entered and exited once, both in the same task.
            start_timeout: seconds for entering.
            stop_timeout: seconds for exiting. After that the entry is aborted and the next one exits.
            abort: closes the transports immediately. It must not block, and it may be called more than once.
            check: tests whether the resource works now: returns a detail or None, or raises (see `run_health_checks`).

        Raises:
            StartError: the entry failed or timed out, or an active entry crashed. The entry has been released or aborted.
            RuntimeError: the shutdown has begun, or the name is taken.
            asyncio.CancelledError: the caller was cancelled. The entry has been released or aborted.
        """
        if self.phase in (Phase.STOPPING, Phase.STOPPED):
            raise RuntimeError(f"{name} cannot be entered: the stack is {self.phase}")
        if name in (entry.name for entry in self.entries):
            raise RuntimeError(f"{name} cannot be entered: the stack already has an entry of that name")
        active = self._active_names()
        remaining = self._startup_deadline - self.journal.now
        entry = Entry(
            name,
            manager,
            stop_timeout=min(stop_timeout, self._teardown.shutdown_timeout),
            journal=self.journal,
            failure=self.failure,
            abort=abort,
            check=check,
        )
        self.entries.append(entry)
        try:
            value = await entry.enter(max(0, min(start_timeout, remaining)))
        except BaseException as error:
            self.entries.remove(entry)
            self._teardown.errors += entry.errors
            if not isinstance(error, Exception):
                error.add_note(f"while entering {name}; entered before it: {', '.join(active) or 'nothing'}")
                raise
            if isinstance(error, StartTimeoutError) and remaining < start_timeout:
                error.add_note(f"the timeout of the whole startup is {self._startup_timeout:.3g} s")
            failed = error.name if isinstance(error, EntryCrashedError) else name
            raise StartError(failed, error, [other for other in active if other != failed]) from error
        self.push_async_exit(partial(self._teardown.exit_entry, entry))
        return value

    def mark_started(self) -> None:
        """End the startup: its deadline no longer applies, and `ready` may become true.

        Raises:
            StartError: an entry has crashed.
        """
        if self.failure.done():
            crash = self.failure.result()
            raise StartError(crash.name, crash, self._active_names())
        self._startup_deadline = math.inf
        if self.phase is Phase.STARTING:  # a shutdown may have begun during the startup
            self.phase = Phase.STARTED
            self.journal.record(EventType.STARTED)

    def begin_shutdown(self) -> None:
        """Begin the shutdown: `ready` is false from now on, and the shutdown timeout counts from here."""
        if self.phase in (Phase.STARTING, Phase.STARTED):
            self.phase = Phase.STOPPING
            self._teardown.start_clock()
            self.journal.record(EventType.STOPPING)

    def abort(self) -> None:
        """Force the shutdown: abort every entry at once, the last one first. Exiting the stack is quick after that."""
        self.begin_shutdown()
        for entry in reversed(self.entries):
            entry.abort(ForcedShutdownError("the shutdown was forced"))

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> bool:
        """Release everything in reverse order. If the startup or the body failed, that error is raised, with a note.

        Raises:
            TeardownError: there was no other error, and an entry failed to exit or was aborted.
            asyncio.CancelledError: the caller was cancelled meanwhile. The teardown is complete.
        """
        self.begin_shutdown()
        raised, suppressed, teardown = exc, False, self._teardown
        try:
            suppressed = bool(await super().__aexit__(exc_type, exc, traceback))
        except BaseException as error:  # noqa: BLE001 - from an inherited callback; it is raised again below
            if isinstance(exc, StartError | asyncio.CancelledError) and isinstance(error, Exception):
                teardown.errors.append(error)
            else:
                raised = error
        self.phase = Phase.STOPPED
        self.journal.record(EventType.STOPPED)
        errors, teardown.errors = teardown.errors, []  # reported once, even if the stack is exited again
        cancelled, teardown.cancelled = teardown.cancelled, None
        teardown_error = TeardownError.of(errors) if errors else None
        if isinstance(raised, StartError):
            raised.teardown = teardown_error
        if raised is None or suppressed:
            raised = teardown_error
        elif teardown_error is not None:
            raised.add_note("the teardown was not clean: " + "; ".join(map(format_error, errors)))
        if cancelled is not None and not isinstance(raised, asyncio.CancelledError):
            raise cancelled from raised
        if raised is not None and raised is not exc:
            raise raised
        return suppressed

    def _active_names(self) -> list[str]:
        return [entry.name for entry in self.entries if entry.is_active]

    def pop_all(self) -> NoReturn:
        """Not supported: journal, deadlines and owner tasks belong to this stack."""
        raise NotImplementedError("a LifecycleStack cannot transfer its entries to another stack")


class _Teardown:
    """Exits the entries one by one, each within its own timeout and the rest of the shutdown timeout."""

    def __init__(self, shutdown_timeout: float, journal: Journal) -> None:
        self.shutdown_timeout = shutdown_timeout
        self.errors: list[Exception] = []
        self.cancelled: asyncio.CancelledError | None = None  # the first cancellation of the caller
        self._journal = journal
        self._shutdown_deadline = math.inf

    def start_clock(self) -> None:
        self._shutdown_deadline = self._journal.now + self.shutdown_timeout

    async def exit_entry(self, entry: Entry[Any], *_exc_details: object) -> None:
        """Exit the entry. If the caller is cancelled, the exit is finished first."""
        remaining = self._shutdown_deadline - self._journal.now
        timeout = max(MIN_STOP_TIMEOUT, min(entry.stop_timeout, remaining))
        cancelled = await finish_despite_cancellation(entry.exit(timeout))
        self.cancelled = self.cancelled or cancelled
        self.errors += entry.errors
