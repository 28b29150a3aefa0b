"""A service of another kind that has copied `gateway/lifecycle`: a queue, a worker, and no web framework."""

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
        print("queue closed, jobs left:", queue.qsize())


@asynccontextmanager
async def run_worker(queue: Queue) -> AsyncGenerator[None]:
    async def work() -> None:
        while True:
            print("processing", await queue.get())
            queue.task_done()

    async with asyncio.TaskGroup() as group:  # an error in the worker ends the entry and completes `stack.failure`
        task = group.create_task(work())
        yield
        await queue.join()  # process the remaining jobs; `stop_timeout` limits the wait
        task.cancel()


async def main() -> None:
    async with LifecycleStack(startup_timeout=10, shutdown_timeout=10) as stack:
        queue = await stack.enter("queue", open_queue(), start_timeout=5, stop_timeout=2)
        await stack.enter("worker", run_worker(queue), start_timeout=5, stop_timeout=2)
        stack.mark_started()
        queue.put_nowait("the first job")
        await asyncio.wait({stack.failure}, timeout=0.1)  # a real service also waits for its stop signal
    for event in stack.journal:
        print(event)


if __name__ == "__main__":
    asyncio.run(main())
