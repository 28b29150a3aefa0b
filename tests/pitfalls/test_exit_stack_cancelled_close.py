"""contextlib.AsyncExitStack: a cancellation during the teardown cuts the close short that is under way."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from gateway.lifecycle import LifecycleStack


@asynccontextmanager
async def connection(closed: asyncio.Event) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        await asyncio.sleep(0.05)  # it says goodbye
        closed.set()


async def naive(closed: asyncio.Event, may_end: asyncio.Event) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(connection(closed))
        await may_end.wait()


async def cure(closed: asyncio.Event, may_end: asyncio.Event) -> None:
    async with LifecycleStack() as stack:
        await stack.enter("connection", connection(closed), start_timeout=1, stop_timeout=1)
        await may_end.wait()


async def closed_although_cancelled(life: Callable[[asyncio.Event, asyncio.Event], Awaitable[None]]) -> bool:
    """Cancel a life while it closes its connection; return whether that was closed."""
    closed, may_end = asyncio.Event(), asyncio.Event()
    may_end.set()
    living = asyncio.ensure_future(life(closed, may_end))
    await asyncio.wait({living}, timeout=0.01)
    living.cancel()
    await asyncio.wait({living}, timeout=2)
    assert living.cancelled()
    return closed.is_set()


async def test_it_is_not_closed() -> None:
    assert not await closed_although_cancelled(naive), "an exit stack protects its callbacks by now"


async def test_in_a_task_of_its_own_it_is() -> None:
    assert await closed_although_cancelled(cure)
