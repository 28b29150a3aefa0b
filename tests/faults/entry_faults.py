"""Faults inside the lifespan's own entries, which keep their real resources at their real servers."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from faultlab import ExpirableTimers
from gateway.lifecycle import EntryCrashedError, StartTimeoutError, StopTimeoutError
from gateway.resources.base import Resource

ENTRY_TIMEOUT = 3.0  # of each resource while the lab expires timers; those of the workers are 3 s or less, always
EXPIRED = (
    ENTRY_TIMEOUT + 0.5
)  # timers due within this time expire: those of the entries, not those of the client libraries

Hook = Callable[[], Coroutine[Any, Any, None]]

lifespan_task: ContextVar["asyncio.Task[Any]"] = ContextVar("lifespan_task")  # enters and exits the lifespan


async def noop() -> None:
    pass


async def hang() -> None:
    await asyncio.Event().wait()


async def _raise_error() -> None:
    raise ValueError("broken")


async def _hang_past_the_timeout() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ExpirableTimers)
    loop.expire_timers(EXPIRED)
    await hang()


async def _cancel_itself() -> None:
    """Raise `CancelledError` without a cancellation, as some libraries do when a connection is lost."""
    raise asyncio.CancelledError


async def hang_while_cancelled() -> None:
    """Hang, after the task that enters and exits the lifespan was cancelled."""
    lifespan_task.get().cancel()
    await hang()


async def hang_past_the_timeout_while_cancelled() -> None:
    """Do the same, and expire the timeout of the entry."""
    lifespan_task.get().cancel()
    await _hang_past_the_timeout()


@dataclass(frozen=True)
class EntryFault:
    """A fault of one entry, and how it is reported when it happens in the startup and in the teardown."""

    name: str
    hook: Hook
    start_error: type[Exception]
    stop_error: type[Exception]

    def __str__(self) -> str:
        return self.name


RAISES = EntryFault("raises", _raise_error, ValueError, ValueError)
HANGS = EntryFault("hangs", _hang_past_the_timeout, StartTimeoutError, StopTimeoutError)
CANCELS_ITSELF = EntryFault("cancels itself", _cancel_itself, EntryCrashedError, EntryCrashedError)
ENTRY_FAULTS = [RAISES, HANGS, CANCELS_ITSELF]


@dataclass(frozen=True)
class FaultPlan:
    """The hooks of one run, by the names of the entries.

    Attributes:
        on_enter: awaited when the entry has acquired its resource and is not active yet.
        on_exit: awaited before the entry releases its resource.
        while_active: run in the background while the entry is active, as a worker is. An error crashes the entry.
    """

    on_enter: Mapping[str, Hook] = field(default_factory=dict)
    on_exit: Mapping[str, Hook] = field(default_factory=dict)
    while_active: Mapping[str, Hook] = field(default_factory=dict)


_plan: ContextVar[FaultPlan] = ContextVar("plan", default=FaultPlan())  # noqa: B039 - it is immutable


@contextmanager
def faults_injected(plan: FaultPlan) -> Iterator[None]:
    """Apply the plan to the entries that are entered inside the block."""
    token = _plan.set(plan)
    try:
        yield
    finally:
        _plan.reset(token)


def patch_entries(replace: Callable[[object, str, object], object] = setattr) -> None:
    """Make every entry of the lifespan call the hooks of the current plan.

    Args:
        replace: sets an attribute; `monkeypatch.setattr` restores it at the end of a test.
    """
    for resource in Resource.__subclasses__():  # the lifespan is imported by now, and all its entries with it
        replace(resource, "open", _with_hooks(resource.open))


def _with_hooks(original: Callable[[Any], AbstractAsyncContextManager[Any]]) -> Callable[[Any], Any]:
    @asynccontextmanager
    async def open_with_hooks(self: Any) -> AsyncGenerator[Any]:
        plan = _plan.get()
        async with original(self) as value:
            await plan.on_enter.get(self.name, noop)()
            try:
                async with asyncio.TaskGroup() as group:
                    worker = group.create_task(plan.while_active.get(self.name, noop)())
                    yield value
                    worker.cancel()
            finally:
                await plan.on_exit.get(self.name, noop)()

    return open_with_hooks
