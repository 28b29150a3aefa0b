"""One entry of the stack: a context manager that a task of its own enters, holds and exits."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

from gateway.lifecycle.errors import DiedError, StartTimeoutError, StopTimeoutError
from gateway.lifecycle.journal import Journal, Kind

T = TypeVar("T")

GRACE = 0.25
"""Seconds that an owner has to end once it was cancelled and its resource aborted."""

PERSISTENCE = 5
"""How many times within the grace it is cancelled again."""

Abort = Callable[[], object]
Check = Callable[[], Awaitable[str | None]]


class Entry(Generic[T]):
    """Enters, holds and exits one context manager in one task, the owner.

    As one task does all three, task groups and cancel scopes inside the context manager work, and a cancellation of
    whoever waits out here never reaches a close that is under way.
    """

    def __init__(
        self,
        name: str,
        manager: AbstractAsyncContextManager[T],
        *,
        stop: float,
        journal: Journal,
        death: "asyncio.Future[DiedError]",
        abort: Abort | None = None,
        check: Check | None = None,
    ) -> None:
        """Begin to enter. `death` is shared by all entries: the first one that ends by itself sets it."""
        loop = asyncio.get_running_loop()
        self.name = name
        self.stop_timeout = stop
        self.check = check
        self.errors: list[Exception] = []
        """What went wrong while it was released."""
        self.died = False
        """Whether the owner ended by itself. The context manager has released itself by that."""
        self._manager = manager
        self._journal = journal
        self._death = death
        self._abort = abort
        self._entered: asyncio.Future[T] = loop.create_future()
        self._released = asyncio.Event()
        self._aborted: asyncio.Future[None] = loop.create_future()
        self._ended: BaseException | None = None
        journal.record(Kind.ENTERING, name)
        self._owner = asyncio.create_task(self._own(), name=f"owner of {name}")
        self._owner.add_done_callback(self._on_owner_done)

    async def _own(self) -> None:
        try:
            async with self._manager as value:
                _raise_if_cancelled()
                self._journal.record(Kind.ENTERED, self.name)
                self._entered.set_result(value)
                await self._released.wait()
        except BaseException as error:
            self._ended = error
            raise

    def _on_owner_done(self, owner: asyncio.Task[None]) -> None:
        if not owner.cancelled():
            owner.exception()  # so that the loop does not call it lost: it is kept in `_ended`
        if self._entered.done() and not self._released.is_set():
            self.died = True
            self._journal.record(Kind.DIED, self.name, self._ended)
            if not self._death.done():
                self._death.set_result(DiedError(self.name, self._ended))

    @property
    def held(self) -> bool:
        """Whether it was entered and is not released yet."""
        return self._entered.done() and not self._owner.done()

    async def enter(self, within: float) -> T:
        """Wait until it is entered, `within` seconds at most. Whatever this raises, nothing is held any more then.

        Raises:
            asyncio.CancelledError: the caller was cancelled.
            StartTimeoutError: the deadline has passed.
            DiedError: this entry, or one that was entered before, ended by itself.
            ForcedError: it was aborted.
            Exception: whatever the context manager raised.
        """
        watched: set[asyncio.Future[Any]] = {self._owner, self._entered, self._aborted, self._death}
        try:
            await asyncio.wait(watched, timeout=within, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError as cancelled:
            self._journal.record(Kind.ENTER_CANCELLED, self.name)
            await outlast(self._withdraw())
            raise cancelled from None
        error: BaseException
        if self._death.done():
            error = self._death.result()
        elif self._aborted.done():
            error = self.errors.pop()
        elif self._entered.done():
            return self._entered.result()
        elif self._owner.done():
            error = self._ended or DiedError(self.name)
            if isinstance(error, asyncio.CancelledError):  # nobody cancelled the caller, so it must not look like that
                error = DiedError(self.name, error)
        else:
            error = StartTimeoutError(f"not entered within {within:.3g} s")
        self._journal.record(Kind.ENTER_FAILED, self.name, error)
        cancelled_meanwhile = await outlast(self._withdraw())
        if isinstance(error, StartTimeoutError) and self._ended is not None:
            by_us = isinstance(self._ended, asyncio.CancelledError)
            error.__cause__ = self._ended.__cause__ if by_us else self._ended
        if cancelled_meanwhile is not None:
            raise cancelled_meanwhile from error
        raise error

    async def _withdraw(self) -> None:
        """Give back what a start that failed had acquired: its own clean-up runs, within the stop deadline."""
        if self.held:
            await self.exit(self.stop_timeout)
        elif not self._owner.done():
            self._owner.cancel()
            await self._ends(self.stop_timeout)

    async def exit(self, within: float) -> None:
        """Release it: by itself, or by force where `within` seconds do not suffice. What goes wrong is in `errors`."""
        if self.died:
            return
        if not self._aborted.done():
            self._released.set()
            self._journal.record(Kind.EXITING, self.name)
        await self._ends(within)
        if self._aborted.done():
            return
        if self._ended is None:
            self._journal.record(Kind.EXITED, self.name)
        else:
            self._fail(self._ended)

    async def _ends(self, within: float) -> None:
        """Wait for the owner to end, and abort it if it does not."""
        watched: set[asyncio.Future[None]] = {self._owner, self._aborted}
        await asyncio.wait(watched, timeout=within, return_when=asyncio.FIRST_COMPLETED)
        if self._owner.done():
            return
        self.abort(StopTimeoutError(f"{self.name} was not released within {within:.3g} s"))
        for _ in range(PERSISTENCE):
            await asyncio.wait({self._owner}, timeout=GRACE / PERSISTENCE)
            self._owner.cancel()  # again: one cancellation ends one await, and a clean-up may have more of them
        self._drop()  # again: for what the owner got hold of between the abort and its end
        if not self._owner.done():
            self._journal.record(Kind.ABANDONED, self.name)

    def abort(self, reason: Exception) -> None:
        """Let go by force, at once: cancel the owner and drop the transports."""
        if self._owner.done() or self._aborted.done():
            return
        self._released.set()
        self._aborted.set_result(None)
        self.errors.append(reason)
        self._journal.record(Kind.ABORTED, self.name, reason)
        self._owner.cancel()
        self._drop()

    def _drop(self) -> None:
        if self._abort is not None:
            try:
                self._abort()
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the rest is released whatever it does
                self._abort = None
                self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self._journal.record(Kind.EXIT_FAILED, self.name, error)
        self.errors.append(error if isinstance(error, Exception) else DiedError(self.name, error))


async def outlast(work: Coroutine[Any, Any, None]) -> asyncio.CancelledError | None:
    """Await `work` to its end, however often the caller is cancelled; return the first cancellation, if any."""
    cancelled = None
    task = asyncio.create_task(work)
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = cancelled or error
    task.result()
    return cancelled


def _raise_if_cancelled() -> None:
    """Some libraries swallow a cancellation and go on as if nothing had happened: it counts all the same."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
