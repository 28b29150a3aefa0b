"""A service of another kind that has copied `gateway/lifecycle`: two resources and a worker, and nothing of FastAPI."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from gateway.lifecycle import LifecycleStack  # in your service: yourservice.lifecycle

Queue = asyncio.Queue[str]


@asynccontextmanager
async def open_queue() -> AsyncGenerator[Queue]:
    queue: Queue = asyncio.Queue()
    try:
        yield queue
    finally:
        await queue.join()  # whoever put something in has it worked before we end


@asynccontextmanager
async def run_worker(queue: Queue) -> AsyncGenerator[None]:
    async def work() -> None:
        while True:
            print("working on", await queue.get())
            queue.task_done()

    async with asyncio.TaskGroup() as group:  # what it raises ends the entry, and `stack.failure` says so
        task = group.create_task(work())
        yield
        task.cancel()


async def main() -> None:
    async with LifecycleStack(startup_timeout=10, shutdown_timeout=10) as stack:
        queue = await stack.enter("queue", open_queue(), start_timeout=5, stop_timeout=2)
        await stack.enter("worker", run_worker(queue), start_timeout=5, stop_timeout=2)
        stack.mark_started()
        queue.put_nowait("the first job")
        await asyncio.wait({stack.failure}, timeout=0.1)  # a real service waits for its stop signal, too
    for event in stack.journal:
        print(event)


if __name__ == "__main__":
    asyncio.run(main())
