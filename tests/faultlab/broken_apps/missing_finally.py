"""No `try` and `finally` around the `yield`: the code after it runs only if nothing fails."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from redis.asyncio import Redis

from gateway.lifecycle import LifecycleStack


@asynccontextmanager
async def broken_lifespan(app: FastAPI) -> AsyncGenerator[None]:
    app.state.redis = Redis.from_url(os.environ["REDIS_URL"])
    await app.state.redis.ping()
    yield
    await app.state.redis.aclose()


@asynccontextmanager
async def open_client() -> AsyncGenerator[Redis]:
    redis = Redis.from_url(os.environ["REDIS_URL"])
    try:
        await redis.ping()
        yield redis
    finally:
        await redis.aclose()


@asynccontextmanager
async def fixed_lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with LifecycleStack() as stack:  # a cancellation does not interrupt its closes
        app.state.redis = await stack.enter("redis", open_client(), start_timeout=5, stop_timeout=2)
        yield


def broken() -> FastAPI:
    return FastAPI(lifespan=broken_lifespan)


def fixed() -> FastAPI:
    return FastAPI(lifespan=fixed_lifespan)
