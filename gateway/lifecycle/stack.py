"""The stack: an `AsyncExitStack` whose entries have a name, deadlines, a journal and an owner each."""

import asyncio
import math
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from enum import StrEnum
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from gateway.lifecycle.entry import Abort, Check, Entry, outlast
from gateway.lifecycle.errors import DiedError, ForcedError, StartError, StartTimeoutError, TeardownError
from gateway.lifecycle.journal import Journal, Kind, describe

T = TypeVar("T")

MOMENT = 0.05
"""Seconds that an entry has to exit by itself even when the deadline of the whole has passed: most need no more."""


class Phase(StrEnum):
    """Where a stack is in its one life."""

    STARTING = "starting"
    STARTED = "started"
    STOPPING = "stopping"
    STOPPED = "stopped"


class LifecycleStack(AsyncExitStack):
    """Owns several resources: enters them in order, and releases them in reverse, whatever happens.

    What `enter` puts on the stack has the guarantees of this package. What the inherited methods put on it behaves as
    on any `AsyncExitStack`; the order of release is one for both.
    """

    def __init__(
        self, *, startup: float = math.inf, shutdown: float = math.inf, journal: Journal | None = None
    ) -> None:
        """Open nothing yet.

        Args:
            startup: seconds for the startup as a whole, from now until `started()`.
            shutdown: seconds for the stop as a whole, from `begin_stop()` or, without it, from the teardown's begin.
            journal: where to record; a new one if it is None.
        """
        super().__init__()
        self.journal = Journal() if journal is None else journal
        self.phase = Phase.STARTING
        self.entries: list[Entry[Any]] = []
        self._startup = startup
        self._start_by = self.journal.now + startup
        self._teardown = _Teardown(shutdown, self.journal)
        self._death: asyncio.Future[DiedError] | None = None

    @property
    def death(self) -> "asyncio.Future[DiedError]":
        """Done as soon as an entry has ended by itself: nothing should run on half a stack."""
        if self._death is None:
            self._death = asyncio.get_running_loop().create_future()
        return self._death

    @property
    def ready(self) -> bool:
        """Whether all of it is up: the startup has ended, no stop has begun, and nothing died."""
        return self.phase is Phase.STARTED and not self.death.done()

    async def enter(
        self,
        name: str,
        manager: AbstractAsyncContextManager[T],
        *,
        start: float,
        stop: float,
        abort: Abort | None = None,
        check: Check | None = None,
    ) -> T:
        """Enter `manager` in a task of its own, register its release, and return what it yields.

        Args:
            name: what it is called in the journal and in errors.
            manager: entered and exited once, both in the same task.
            start: seconds that entering may take.
            stop: seconds that exiting may take; then it is cancelled and aborted, and it is the next one's turn.
            abort: drops whatever is still held, at once and without waiting. It may be called more than once.
            check: asks whether it works now: returns a remark or None, raises if it does not (see `check_all`).

        Raises:
            StartError: it failed or took too long, or an entry before it died. What it had acquired is given back.
            RuntimeError: a stop was asked for, or the stack has an entry of that name.
            asyncio.CancelledError: the caller was cancelled. The same holds.
        """
        if self.phase in (Phase.STOPPING, Phase.STOPPED):
            raise RuntimeError(f"{name} cannot be entered: the stack is {self.phase}")
        if name in (entry.name for entry in self.entries):
            raise RuntimeError(f"{name} cannot be entered: the stack has one of that name")
        before = [entry.name for entry in self.entries if entry.held]
        left = self._start_by - self.journal.now
        entry = Entry(
            name,
            manager,
            stop=min(stop, self._teardown.shutdown),
            journal=self.journal,
            death=self.death,
            abort=abort,
            check=check,
        )
        self.entries.append(entry)
        try:
            value = await entry.enter(max(0, min(start, left)))
        except BaseException as error:
            self.entries.remove(entry)
            self._teardown.errors += entry.errors
            if not isinstance(error, Exception):
                error.add_note(f"while entering {name}; entered before it: {', '.join(before) or 'nothing'}")
                raise
            if isinstance(error, StartTimeoutError) and left < start:
                error.add_note(f"the startup as a whole may take {self._startup:.3g} s")
            raise StartError(error.name if isinstance(error, DiedError) else name, error, before) from error
        self.push_async_exit(partial(self._teardown.release, entry))
        return value

    def started(self) -> None:
        """Say that the startup has ended: its deadline no longer counts, and `ready` may be true.

        Raises:
            StartError: an entry has died by now.
        """
        if self.death.done():
            death = self.death.result()
            raise StartError(death.name, death, [entry.name for entry in self.entries])
        self._start_by = math.inf
        if self.phase is Phase.STARTING:  # a stop that was asked for meanwhile stays asked for
            self.phase = Phase.STARTED
            self.journal.record(Kind.STARTED)

    def begin_stop(self) -> None:
        """Say that a stop was asked for: `ready` is false from now on, and the stop's deadline counts from here."""
        if self.phase in (Phase.STARTING, Phase.STARTED):
            self.phase = Phase.STOPPING
            self._teardown.begin()
            self.journal.record(Kind.STOPPING)

    def abort(self) -> None:
        """Force the stop: let go of every entry at once, the latest first. Leaving the stack is quick then."""
        self.begin_stop()
        for entry in reversed(self.entries):
            entry.abort(ForcedError("the stop was forced"))

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> bool:
        """Release everything in reverse. The error of the start, or of the body, is the one that leaves.

        Raises:
            TeardownError: there was no other error, and an entry failed to exit or had to be aborted.
            asyncio.CancelledError: the caller was cancelled meanwhile. The teardown is complete all the same.
        """
        self.begin_stop()
        leaving, suppressed, teardown = exc, False, self._teardown
        try:
            suppressed = bool(await super().__aexit__(exc_type, exc, traceback))
        except BaseException as error:  # noqa: BLE001 - of an inherited callback: it is raised again below
            if isinstance(exc, StartError | asyncio.CancelledError) and isinstance(error, Exception):
                teardown.errors.append(error)
            else:
                leaving = error
        self.phase = Phase.STOPPED
        self.journal.record(Kind.STOPPED)
        errors, teardown.errors = teardown.errors, []  # said once, should it be left again
        cancelled, teardown.cancelled = teardown.cancelled, None
        unclean = TeardownError.of(errors) if errors else None
        if isinstance(leaving, StartError):
            leaving.teardown = unclean
        if leaving is None or suppressed:
            leaving = unclean
        elif unclean is not None:
            leaving.add_note("the teardown was not clean: " + "; ".join(map(describe, unclean.exceptions)))
        if cancelled is not None and not isinstance(leaving, asyncio.CancelledError):
            raise cancelled from leaving
        if leaving is not None and leaving is not exc:
            raise leaving
        return suppressed

    def pop_all(self) -> Self:
        """Hand everything over to a new stack, journal and deadlines included; this one is as new."""
        popped = super().pop_all()
        inherited = vars(AsyncExitStack()).keys()
        vars(popped).update({name: value for name, value in vars(self).items() if name not in inherited})
        vars(self).update(vars(type(self)()))
        return popped


class _Teardown:
    """The release of the entries, one after the other, each within its deadline and what is left of the whole."""

    def __init__(self, shutdown: float, journal: Journal) -> None:
        self.errors: list[Exception] = []
        self.cancelled: asyncio.CancelledError | None = None
        self._journal = journal
        self.shutdown = shutdown
        self._stop_by = math.inf

    def begin(self) -> None:
        self._stop_by = self._journal.now + self.shutdown

    async def release(self, entry: Entry[Any], *_exc_details: object) -> None:
        """Exit the entry. A cancellation of the caller does not cut this short: it is kept for the end."""
        left = self._stop_by - self._journal.now
        cancelled = await outlast(entry.exit(max(MOMENT, min(entry.stop_timeout, left))))
        self.cancelled = self.cancelled or cancelled
        self.errors += entry.errors
