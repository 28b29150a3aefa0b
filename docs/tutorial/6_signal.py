"""Step 6: the process gets SIGTERM while a server does not respond, in the startup and in the teardown."""

import asyncio
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from lifespans import exit_stack, tutorial
from servers import Client, Fault, Server, run

from gateway.lifecycle import LifecycleStack


@asynccontextmanager
async def lifecycle_stack(database: Server, cache: Server) -> AsyncGenerator[None]:
    loop = asyncio.get_running_loop()
    if startup := asyncio.current_task():
        loop.add_signal_handler(signal.SIGTERM, startup.cancel)
    async with LifecycleStack() as stack:
        for client in Client(database), Client(cache):
            await stack.enter(client.name, client, start_timeout=30, stop_timeout=30, abort=client.abort)
        stack.mark_started()
        yield
        loop.add_signal_handler(signal.SIGTERM, stack.abort)


def signal_when(received: asyncio.Event) -> Fault:
    async def fault(_task: "asyncio.Task[None]") -> None:
        await received.wait()
        signal.raise_signal(signal.SIGTERM)

    return fault


async def main() -> None:
    stop = asyncio.Event()  # a server waits for it once the startup is complete
    for command in "HELLO", "QUIT":
        print(f"\n--- the cache does not respond to {command}")
        for lifespan, limit in (tutorial, 1), (exit_stack, 1), (lifecycle_stack, 30):
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
            cache = Server("cache", **{command: None})
            await run(lifespan, Server("database"), cache, fault=signal_when(cache.received[command]), limit=limit)


asyncio.run(main())
