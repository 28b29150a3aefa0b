"""Step 7: the fault lab cancels the startup and the teardown at every iteration of the event loop."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import servers
from lifespans import exit_stack, tutorial
from servers import Client, Lifespan, Server

from faultlab import Run, sweep
from gateway.lifecycle import LifecycleStack


@asynccontextmanager
async def lifecycle_stack(database: Server, cache: Server) -> AsyncGenerator[None]:
    async with LifecycleStack() as stack:
        for client in Client(database), Client(cache):
            await stack.enter(client.name, client, start_timeout=5, stop_timeout=1, abort=client.abort)
        stack.mark_started()
        yield


def check(lifespan: Lifespan) -> None:
    async def startup(run: Run) -> None:
        async with Server("database") as database, Server("cache") as cache:
            manager = lifespan(database, cache)
            with run.armed():  # the cancellation is injected in this block, one iteration later in each run
                await manager.__aenter__()
            await manager.__aexit__(None, None, None)

    async def teardown(run: Run) -> None:
        async with Server("database") as database, Server("cache") as cache:
            manager = lifespan(database, cache)
            await manager.__aenter__()
            with run.armed():
                await manager.__aexit__(None, None, None)

    for phase in startup, teardown:
        outcomes = list(sweep(phase))
        leaks = [outcome for outcome in outcomes if outcome.leaked]
        print(
            f"{lifespan.__name__}: {phase.__name__} cancelled at {len(outcomes)} points, leaks: {len(leaks) or 'none'}"
        )
        for outcome in leaks[:1]:
            print(f"  the first at {outcome.location}")


servers.RESPONSE_TIME = 0
for lifespan in tutorial, exit_stack, lifecycle_stack:
    check(lifespan)
