"""Fake resources for the tests of the core: hooks decide what happens when they are entered and when they exit."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from gateway.lifecycle import Journal, LifecycleStack

Hook = Callable[[], Awaitable[object]]


async def noop() -> None:
    pass


async def hang() -> None:
    await asyncio.Event().wait()


async def raise_error() -> None:
    raise ValueError("broken")


async def cancel_self() -> None:
    raise asyncio.CancelledError


async def swallow_cancellation() -> None:
    """Hang, and return normally when cancelled, as some libraries do."""
    with suppress(asyncio.CancelledError):
        await hang()


async def ignore_cancellations(*, until: asyncio.Event) -> None:
    """Wait for the event, however often the task is cancelled."""
    while not until.is_set():
        with suppress(asyncio.CancelledError):
            await until.wait()


class Pause:
    """A hook that pauses: it sets `reached` when it is called and returns once `resume` is set."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.resume = asyncio.Event()

    async def __call__(self) -> None:
        self.reached.set()
        await self.resume.wait()


@asynccontextmanager
async def fake_resource(value: str = "", *, on_enter: Hook = noop, on_exit: Hook = noop) -> AsyncIterator[str]:
    try:
        await on_enter()
        yield value
    finally:
        await on_exit()


@asynccontextmanager
async def fake_worker(crash: asyncio.Event) -> AsyncIterator[None]:
    """A background task in a task group. Once `crash` is set it raises, and the group cancels the owner task."""

    async def work() -> None:
        await crash.wait()
        raise RuntimeError("the worker broke")

    async with asyncio.TaskGroup() as group:
        task = group.create_task(work())
        yield
        task.cancel()


async def enter(
    stack: LifecycleStack,
    name: str,
    *,
    on_enter: Hook = noop,
    on_exit: Hook = noop,
    start_timeout: float = 5,
    stop_timeout: float = 5,
    abort: Callable[[], object] | None = None,
    check: Callable[[], Awaitable[str | None]] | None = None,
) -> str:
    """Enter a fake resource whose value is `the NAME`."""
    resource = fake_resource(f"the {name}", on_enter=on_enter, on_exit=on_exit)
    return await stack.enter(
        name, resource, start_timeout=start_timeout, stop_timeout=stop_timeout, abort=abort, check=check
    )


async def enter_worker(
    stack: LifecycleStack,
    crash: asyncio.Event,
    *,
    name: str = "worker",
    check: Callable[[], Awaitable[str | None]] | None = None,
) -> None:
    """Enter a background worker that crashes once `crash` is set."""
    await stack.enter(name, fake_worker(crash), start_timeout=5, stop_timeout=5, check=check)


def event_sequence(journal: Journal) -> list[str]:
    """The journal without its times and errors, for exact comparison."""
    return [f"{event.type} {event.name}" if event.name else str(event.type) for event in journal]
