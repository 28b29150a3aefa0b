"""One deadline for all closes: the first close that hangs uses it up, and the second is never called."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg
from fastapi import FastAPI

from gateway.lifecycle import LifecycleStack


@asynccontextmanager
async def broken_lifespan(app: FastAPI) -> AsyncGenerator[None]:
    app.state.reader = await asyncpg.connect(os.environ["POSTGRESQL_URL"])
    app.state.writer = await asyncpg.connect(os.environ["POSTGRESQL_URL"])
    try:
        yield
    finally:
        async with asyncio.timeout(0.2):
            await app.state.writer.close()
            await app.state.reader.close()


@asynccontextmanager
async def closing(connection: "asyncpg.Connection[asyncpg.Record]") -> AsyncGenerator[None]:
    try:
        yield
    finally:
        await connection.close()


@asynccontextmanager
async def fixed_lifespan(_app: FastAPI) -> AsyncGenerator[None]:
    async with LifecycleStack() as stack:
        for name in ("reader", "writer"):
            connection = await asyncpg.connect(os.environ["POSTGRESQL_URL"])
            await stack.enter(name, closing(connection), start_timeout=5, stop_timeout=0.1, abort=connection.terminate)
        yield


def broken() -> FastAPI:
    return FastAPI(lifespan=broken_lifespan)


def fixed() -> FastAPI:
    return FastAPI(lifespan=fixed_lifespan)
