"""contextlib.AsyncExitStack: a cancellation during the teardown interrupts the close that is in progress."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from gateway.lifecycle import LifecycleStack


@asynccontextmanager
async def connection(closed: asyncio.Event) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        await asyncio.sleep(0.05)  # a graceful close
        closed.set()


async def broken(closed: asyncio.Event, stop: asyncio.Event) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(connection(closed))
        await stop.wait()


async def fixed(closed: asyncio.Event, stop: asyncio.Event) -> None:
    async with LifecycleStack() as stack:
        await stack.enter("connection", connection(closed), start_timeout=1, stop_timeout=1)
        await stop.wait()


async def closes_when_cancelled(service: Callable[[asyncio.Event, asyncio.Event], Awaitable[None]]) -> bool:
    """Cancel the service while it closes its connection. Return whether the close was completed."""
    closed, stop = asyncio.Event(), asyncio.Event()
    stop.set()
    running = asyncio.ensure_future(service(closed, stop))
    await asyncio.wait({running}, timeout=0.01)
    running.cancel()
    await asyncio.wait({running}, timeout=2)
    assert running.cancelled()
    return closed.is_set()


async def test_cancelled_teardown_skips_close() -> None:
    """The connection of an `AsyncExitStack` is never closed."""
    assert not await closes_when_cancelled(broken), "fixed upstream: AsyncExitStack protects its callbacks"


async def test_owner_task_completes_close() -> None:
    """The close runs in the entry's owner task and is completed before the cancellation is raised."""
    assert await closes_when_cancelled(fixed)
