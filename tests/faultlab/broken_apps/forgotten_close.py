"""A close without effect: `Redis(connection_pool=pool)` does not own the pool, and its `aclose()` leaves it open."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from redis.asyncio import ConnectionPool, Redis

from gateway.lifecycle import LifecycleStack


@asynccontextmanager
async def broken_client(pool: ConnectionPool) -> AsyncGenerator[Redis]:
    redis = Redis(connection_pool=pool)
    try:
        await redis.ping()
        yield redis
    finally:
        await redis.aclose()


@asynccontextmanager
async def fixed_client(pool: ConnectionPool) -> AsyncGenerator[Redis]:
    redis = Redis.from_pool(pool)  # the client owns the pool
    try:
        await redis.ping()
        yield redis
    finally:
        await redis.aclose()


@asynccontextmanager
async def broken_lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with LifecycleStack() as stack:
        app.state.pool = ConnectionPool.from_url(os.environ["REDIS_URL"])
        app.state.redis = await stack.enter("redis", broken_client(app.state.pool), start_timeout=5, stop_timeout=2)
        yield


@asynccontextmanager
async def fixed_lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with LifecycleStack() as stack:
        app.state.pool = ConnectionPool.from_url(os.environ["REDIS_URL"])
        app.state.redis = await stack.enter("redis", fixed_client(app.state.pool), start_timeout=5, stop_timeout=2)
        yield


def broken() -> FastAPI:
    return FastAPI(lifespan=broken_lifespan)


def fixed() -> FastAPI:
    return FastAPI(lifespan=fixed_lifespan)
