"""The example of gateway/lifecycle/README.md: two resources and the journal of their run."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from gateway.lifecycle import LifecycleStack


@asynccontextmanager
async def connect(server: str) -> AsyncGenerator[str]:
    try:
        await asyncio.sleep(0)  # connect
        yield f"connection to {server}"
    finally:
        await asyncio.sleep(0)  # disconnect


async def main() -> None:
    async with LifecycleStack(startup_timeout=10, shutdown_timeout=10) as stack:
        database = await stack.enter("database", connect("database"), start_timeout=5, stop_timeout=2)
        cache = await stack.enter("cache", connect("cache"), start_timeout=5, stop_timeout=2)
        stack.mark_started()
        print(database, "and", cache)
    for event in stack.journal:
        print(event)


asyncio.run(main())
