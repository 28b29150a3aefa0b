"""The example of faultlab/README.md: a context manager that leaks a task when its startup is cancelled."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from faultlab import Run, sweep


@asynccontextmanager
async def heartbeat() -> AsyncGenerator[None]:
    task = asyncio.create_task(asyncio.sleep(60), name="heartbeat")
    await asyncio.sleep(0)  # wait for the first beat
    yield
    task.cancel()


async def start_and_stop(run: Run) -> None:
    manager = heartbeat()
    with run.armed():  # a cancellation is injected at every await in this block, one per run
        await manager.__aenter__()
    await manager.__aexit__(None, None, None)


for outcome in sweep(start_and_stop):
    print(f"cancelled at {outcome.location}: {outcome.leaked or 'no leaks'}")
