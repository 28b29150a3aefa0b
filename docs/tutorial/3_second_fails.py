"""Step 3: the second resource fails to open."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from lifespans import exit_stack, tutorial
from servers import Client, Server, run

from gateway.lifecycle import LifecycleStack


@asynccontextmanager
async def lifecycle_stack(database: Server, cache: Server) -> AsyncGenerator[None]:
    async with LifecycleStack() as stack:
        await stack.enter("database", Client(database), start_timeout=5, stop_timeout=1)
        await stack.enter("cache", Client(cache), start_timeout=5, stop_timeout=1)
        stack.mark_started()
        yield


async def main() -> None:
    for lifespan in tutorial, exit_stack, lifecycle_stack:
        await run(lifespan, Server("database"), Server("cache", HELLO="wrong password"))

    print("\n--- the database rejects its close, too")
    for lifespan in exit_stack, lifecycle_stack:
        database = Server("database", QUIT="transaction in progress")
        await run(lifespan, database, Server("cache", HELLO="wrong password"))


asyncio.run(main())
