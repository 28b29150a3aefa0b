"""Step 5: the task of the lifespan is cancelled, in its teardown and in its startup."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from lifespans import tutorial
from servers import Client, Connection, Fault, Server, run

from gateway.lifecycle import LifecycleStack


class RetryingClient(Client):
    """A client that tries again after any error. A cancellation is one of them."""

    async def __aenter__(self) -> Connection:
        while True:
            try:
                return await super().__aenter__()
            except BaseException:  # noqa: BLE001, S112 - the bug that this step is about
                continue


@asynccontextmanager
async def exit_stack(database: Server, cache: Server) -> AsyncGenerator[None]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(Client(database))
        await stack.enter_async_context(RetryingClient(cache))
        yield


@asynccontextmanager
async def lifecycle_stack(database: Server, cache: Server) -> AsyncGenerator[None]:
    async with LifecycleStack() as stack:
        for client in Client(database), RetryingClient(cache):
            await stack.enter(client.name, client, start_timeout=5, stop_timeout=1, abort=client.abort)
        stack.mark_started()
        yield


def cancel_when(received: asyncio.Event) -> Fault:
    async def fault(task: "asyncio.Task[None]") -> None:
        await received.wait()
        task.cancel()

    return fault


async def main() -> None:
    for command in "QUIT", "HELLO":
        print(f"\n--- cancelled at {command}")
        for lifespan in tutorial, exit_stack, lifecycle_stack:
            cache = Server("cache")
            await run(lifespan, Server("database"), cache, fault=cancel_when(cache.received[command]))


asyncio.run(main())
