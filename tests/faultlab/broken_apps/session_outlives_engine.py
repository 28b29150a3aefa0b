"""An engine disposed while a request holds a session: the connection comes back to a pool that nobody has any more."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from gateway.lifecycle import LifecycleStack


@asynccontextmanager
async def opened(app: FastAPI, *, waits: bool) -> AsyncGenerator[AsyncEngine]:
    engine = create_async_engine(os.environ["DATABASE_URL"])
    try:
        yield engine
    finally:
        if waits and app.state.borrowers:
            await asyncio.wait(app.state.borrowers)
        await engine.dispose()


async def report(request: Request) -> str:
    state = request.app.state
    task = asyncio.current_task()
    state.borrowers.add(task)
    try:
        async with AsyncSession(state.engine) as session:
            await session.execute(text("SELECT 1"))
            await asyncio.sleep(0.02)  # asks another service meanwhile
    finally:
        state.borrowers.discard(task)
    return "done"


def app_of(*, waits: bool) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        app.state.borrowers = set()
        async with LifecycleStack() as stack:
            app.state.engine = await stack.enter("engine", opened(app, waits=waits), start_timeout=5, stop_timeout=2)
            yield

    app = FastAPI(lifespan=lifespan)
    app.get("/report")(report)
    return app


def naive() -> FastAPI:
    return app_of(waits=False)


def cured() -> FastAPI:
    return app_of(waits=True)
