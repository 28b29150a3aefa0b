"""Teardown in the order of startup: the worker's last words need the connection that was closed before it."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from redis.asyncio import Redis

from gateway.lifecycle import LifecycleStack


async def count(redis: Redis) -> None:
    try:
        await asyncio.Event().wait()  # it counts, in memory
    finally:
        await redis.incrby("counted", 1)  # and writes down what it has counted


@asynccontextmanager
async def naive_lifespan(app: FastAPI) -> AsyncGenerator[None]:
    app.state.redis = Redis.from_url(os.environ["REDIS_URL"])
    try:
        await app.state.redis.ping()
        worker = asyncio.create_task(count(app.state.redis))
        yield
    finally:
        await app.state.redis.aclose()
        worker.cancel()  # it writes through a client that is closed, which opens a connection that nobody closes
        await asyncio.wait({worker})


@asynccontextmanager
async def opened() -> AsyncGenerator[Redis]:
    redis = Redis.from_url(os.environ["REDIS_URL"])
    try:
        await redis.ping()
        yield redis
    finally:
        await redis.aclose()


@asynccontextmanager
async def counting(redis: Redis) -> AsyncGenerator[None]:
    worker = asyncio.create_task(count(redis))
    await asyncio.sleep(0)  # a task that is cancelled before it has begun says nothing
    try:
        yield
    finally:
        worker.cancel()
        await asyncio.wait({worker})


@asynccontextmanager
async def cured_lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with LifecycleStack() as stack:  # leaves in the reverse order
        app.state.redis = await stack.enter("redis", opened(), start_timeout=5, stop_timeout=2)
        await stack.enter("worker", counting(app.state.redis), start_timeout=5, stop_timeout=2)
        yield


def naive() -> FastAPI:
    return FastAPI(lifespan=naive_lifespan)


def cured() -> FastAPI:
    return FastAPI(lifespan=cured_lifespan)
