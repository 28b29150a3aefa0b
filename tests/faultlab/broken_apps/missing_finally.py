"""No `try` and `finally` around the `yield`: what follows it runs only if nothing goes wrong."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from redis.asyncio import Redis

from gateway.lifecycle import LifecycleStack


@asynccontextmanager
async def naive_lifespan(app: FastAPI) -> AsyncGenerator[None]:
    app.state.redis = Redis.from_url(os.environ["REDIS_URL"])
    await app.state.redis.ping()
    yield
    await app.state.redis.aclose()


@asynccontextmanager
async def opened() -> AsyncGenerator[Redis]:
    redis = Redis.from_url(os.environ["REDIS_URL"])
    try:
        await redis.ping()
        yield redis
    finally:
        await redis.aclose()


@asynccontextmanager
async def cured_lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with LifecycleStack() as stack:  # a cancellation does not cut its closes short, either
        app.state.redis = await stack.enter("redis", opened(), start_timeout=5, stop_timeout=2)
        yield


def naive() -> FastAPI:
    return FastAPI(lifespan=naive_lifespan)


def cured() -> FastAPI:
    return FastAPI(lifespan=cured_lifespan)
