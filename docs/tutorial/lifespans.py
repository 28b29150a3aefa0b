"""The two lifespans that the steps 3 to 7 compare with a `LifecycleStack`."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from servers import Client, Server, connect


@asynccontextmanager
async def tutorial(database: Server, cache: Server) -> AsyncGenerator[None]:
    database_connection = await connect(database)
    cache_connection = await connect(cache)
    yield
    await cache_connection.close()
    await database_connection.close()


@asynccontextmanager
async def exit_stack(database: Server, cache: Server) -> AsyncGenerator[None]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(Client(database))
        await stack.enter_async_context(Client(cache))
        yield
