"""A client created at import: no run of the lifespan closes it."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from redis.asyncio import Redis

from gateway.lifecycle import LifecycleStack

redis = Redis.from_url(os.environ["REDIS_URL"])


@asynccontextmanager
async def broken_lifespan(_app: FastAPI) -> AsyncGenerator[None]:
    await redis.ping()
    yield


@asynccontextmanager
async def open_client() -> AsyncGenerator[Redis]:
    client = Redis.from_url(os.environ["REDIS_URL"])
    try:
        await client.ping()
        yield client
    finally:
        await client.aclose()


@asynccontextmanager
async def fixed_lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with LifecycleStack() as stack:
        app.state.redis = await stack.enter("redis", open_client(), start_timeout=5, stop_timeout=2)
        yield


def broken() -> FastAPI:
    return FastAPI(lifespan=broken_lifespan)


def fixed() -> FastAPI:
    return FastAPI(lifespan=fixed_lifespan)
