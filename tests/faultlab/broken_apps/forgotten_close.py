"""A close that is none: `Redis(connection_pool=pool)` does not own the pool, and its `aclose()` leaves it open."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from redis.asyncio import ConnectionPool, Redis

from gateway.lifecycle import LifecycleStack


@asynccontextmanager
async def naive_client(pool: ConnectionPool) -> AsyncGenerator[Redis]:
    redis = Redis(connection_pool=pool)
    try:
        await redis.ping()
        yield redis
    finally:
        await redis.aclose()


@asynccontextmanager
async def cured_client(pool: ConnectionPool) -> AsyncGenerator[Redis]:
    redis = Redis.from_pool(pool)  # owns it
    try:
        await redis.ping()
        yield redis
    finally:
        await redis.aclose()


@asynccontextmanager
async def naive_lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with LifecycleStack() as stack:
        app.state.pool = ConnectionPool.from_url(os.environ["REDIS_URL"])
        app.state.redis = await stack.enter("redis", naive_client(app.state.pool), start_timeout=5, stop_timeout=2)
        yield


@asynccontextmanager
async def cured_lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with LifecycleStack() as stack:
        app.state.pool = ConnectionPool.from_url(os.environ["REDIS_URL"])
        app.state.redis = await stack.enter("redis", cured_client(app.state.pool), start_timeout=5, stop_timeout=2)
        yield


def naive() -> FastAPI:
    return FastAPI(lifespan=naive_lifespan)


def cured() -> FastAPI:
    return FastAPI(lifespan=cured_lifespan)
