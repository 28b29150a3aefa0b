"""An engine disposed while a request uses a session: the connection is returned to a pool that was discarded."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from gateway.lifecycle import LifecycleStack


@asynccontextmanager
async def open_engine(app: FastAPI, *, wait: bool) -> AsyncGenerator[AsyncEngine]:
    engine = create_async_engine(os.environ["DATABASE_URL"])
    try:
        yield engine
    finally:
        if wait and app.state.active_requests:
            await asyncio.wait(app.state.active_requests)
        await engine.dispose()


async def report(request: Request) -> str:
    state = request.app.state
    task = asyncio.current_task()
    state.active_requests.add(task)
    try:
        async with AsyncSession(state.engine) as session:
            await session.execute(text("SELECT 1"))
            await asyncio.sleep(0.02)  # calls another service
    finally:
        state.active_requests.discard(task)
    return "done"


def create_app(*, wait: bool) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        app.state.active_requests = set()
        async with LifecycleStack() as stack:
            app.state.engine = await stack.enter("engine", open_engine(app, wait=wait), start_timeout=5, stop_timeout=2)
            yield

    app = FastAPI(lifespan=lifespan)
    app.get("/report")(report)
    return app


def broken() -> FastAPI:
    return create_app(wait=False)


def fixed() -> FastAPI:
    return create_app(wait=True)
