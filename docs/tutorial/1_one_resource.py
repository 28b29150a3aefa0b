"""Step 1: one resource."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from servers import Client, Server, connect, run

from gateway.lifecycle import LifecycleStack


@asynccontextmanager
async def tutorial(database: Server) -> AsyncGenerator[None]:
    connection = await connect(database)
    yield
    await connection.close()


@asynccontextmanager
async def lifecycle_stack(database: Server) -> AsyncGenerator[None]:
    async with LifecycleStack() as stack:
        await stack.enter("database", Client(database), start_timeout=5, stop_timeout=1)
        stack.mark_started()
        yield
    print(*stack.journal, sep="\n")


async def main() -> None:
    await run(tutorial, Server("database"))
    await run(lifecycle_stack, Server("database"))


asyncio.run(main())
