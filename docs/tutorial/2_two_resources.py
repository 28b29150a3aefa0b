"""Step 2: two resources. The second one needs the first one until it has ended."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from servers import Client, Connection, Server, connect, run

from gateway.lifecycle import LifecycleStack


class ViewCounter:
    """Counts in memory, and stores the count at its end."""

    def __init__(self, database: Connection) -> None:
        self._database = database

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_exc_details: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        await self._database.call("SET views 3")


@asynccontextmanager
async def tutorial(database: Server) -> AsyncGenerator[None]:
    connection = await connect(database)
    views = ViewCounter(connection)
    yield
    await connection.close()
    await views.stop()


@asynccontextmanager
async def exit_stack(database: Server) -> AsyncGenerator[None]:
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(Client(database))
        await stack.enter_async_context(ViewCounter(connection))
        yield


@asynccontextmanager
async def lifecycle_stack(database: Server) -> AsyncGenerator[None]:
    async with LifecycleStack() as stack:
        connection = await stack.enter("database", Client(database), start_timeout=5, stop_timeout=1)
        await stack.enter("views", ViewCounter(connection), start_timeout=5, stop_timeout=1)
        stack.mark_started()
        yield


async def main() -> None:
    for lifespan in tutorial, exit_stack, lifecycle_stack:
        await run(lifespan, Server("database"))


asyncio.run(main())
