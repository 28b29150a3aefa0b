"""A resource for the tests of the core: it does what the test tells it to, when it is entered and when it exits."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from gateway.lifecycle import Journal, LifecycleStack

Step = Callable[[], Awaitable[object]]


async def nothing() -> None:
    pass


async def hang() -> None:
    await asyncio.Event().wait()


async def fail() -> None:
    raise ValueError("broken")


async def swallow_cancellation() -> None:
    """Hang, and when cancelled go on as if nothing had happened, as some libraries do."""
    try:
        await hang()
    except asyncio.CancelledError:
        return


async def ignore_cancellations(end: asyncio.Event) -> None:
    """Hang until `end` is set, however often it is cancelled."""
    while not end.is_set():
        with suppress(asyncio.CancelledError):
            await end.wait()


@asynccontextmanager
async def fake_resource(value: str = "", *, on_enter: Step = nothing, on_exit: Step = nothing) -> AsyncIterator[str]:
    try:
        await on_enter()
        yield value
    finally:
        await on_exit()


def event_sequence(journal: Journal) -> list[str]:
    """The journal without its times and errors, for exact comparison."""
    return [f"{event.type} {event.name}" if event.name else str(event.type) for event in journal]


async def enter(
    stack: LifecycleStack,
    name: str,
    *,
    on_enter: Step = nothing,
    on_exit: Step = nothing,
    start_timeout: float = 5,
    stop_timeout: float = 5,
    abort: Callable[[], object] | None = None,
) -> str:
    resource = fake_resource(f"the {name}", on_enter=on_enter, on_exit=on_exit)
    return await stack.enter(name, resource, start_timeout=start_timeout, stop_timeout=stop_timeout, abort=abort)
