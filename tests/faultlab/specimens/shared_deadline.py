"""One deadline for all closes: the first that hangs uses it up, and the others are cut off."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg
from fastapi import FastAPI

from gateway.lifecycle import LifecycleStack

URL = "DATABASE_URL"


def connect() -> "asyncpg.connect":
    return asyncpg.connect(os.environ["DATABASE_URL"].replace("+asyncpg", ""))


@asynccontextmanager
async def naive_lifespan(app: FastAPI) -> AsyncGenerator[None]:
    app.state.reader = await connect()
    app.state.writer = await connect()
    yield
    async with asyncio.timeout(0.2):
        await app.state.writer.close()
        await app.state.reader.close()
