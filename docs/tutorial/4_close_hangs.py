"""Step 4: a server does not respond to a close."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from lifespans import exit_stack, tutorial
from servers import Client, Server, run

from gateway.lifecycle import LifecycleStack


@asynccontextmanager
async def lifecycle_stack(database: Server, cache: Server) -> AsyncGenerator[None]:
    stack = LifecycleStack()
    try:
        async with stack:
            for client in Client(database), Client(cache):
                await stack.enter(client.name, client, start_timeout=5, stop_timeout=0.5, abort=client.abort)
            stack.mark_started()
            yield
    finally:
        print(*stack.journal, sep="\n")


async def main() -> None:
    for lifespan, limit in (tutorial, 1), (exit_stack, 1), (lifecycle_stack, 30):
        await run(lifespan, Server("database"), Server("cache", QUIT=None), limit=limit)


asyncio.run(main())
