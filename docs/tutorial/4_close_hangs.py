"""Step 4: a server does not respond to a close."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from servers import Client, Server, run

from gateway.lifecycle import LifecycleStack


@asynccontextmanager
async def exit_stack(database: Server, cache: Server) -> AsyncGenerator[None]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(Client(database))
        await stack.enter_async_context(Client(cache))
        yield


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
    await run(exit_stack, Server("database"), Server("cache", QUIT=None), limit=1.5)
    await run(lifecycle_stack, Server("database"), Server("cache", QUIT=None))


asyncio.run(main())
