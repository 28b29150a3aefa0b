"""A client made at import: it belongs to no life of the app, and nobody closes it."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from redis.asyncio import Redis

from gateway.lifecycle import LifecycleStack

redis = Redis.from_url(os.environ["REDIS_URL"])


@asynccontextmanager
async def naive_lifespan(_app: FastAPI) -> AsyncGenerator[None]:
    await redis.ping()
    yield


@asynccontextmanager
async def opened() -> AsyncGenerator[Redis]:
    client = Redis.from_url(os.environ["REDIS_URL"])
    try:
        await client.ping()
        yield client
    finally:
        await client.aclose()


@asynccontextmanager
async def cured_lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with LifecycleStack() as stack:
        app.state.redis = await stack.enter("redis", opened(), start_timeout=5, stop_timeout=2)
        yield


def naive() -> FastAPI:
    return FastAPI(lifespan=naive_lifespan)


def cured() -> FastAPI:
    return FastAPI(lifespan=cured_lifespan)
