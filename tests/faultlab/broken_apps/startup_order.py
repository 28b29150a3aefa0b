"""Teardown in the order of startup: the worker's last write needs the client that was closed before it."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from redis.asyncio import Redis

from gateway.lifecycle import LifecycleStack


async def count(redis: Redis) -> None:
    try:
        await asyncio.Event().wait()  # counts in memory
    finally:
        await redis.incrby("counted", 1)  # and stores the count at the end


@asynccontextmanager
async def broken_lifespan(app: FastAPI) -> AsyncGenerator[None]:
    app.state.redis = Redis.from_url(os.environ["REDIS_URL"])
    try:
        await app.state.redis.ping()
        worker = asyncio.create_task(count(app.state.redis))
        yield
    finally:
        await app.state.redis.aclose()
        worker.cancel()  # it writes with the closed client, which opens a new connection that is never closed
        await asyncio.wait({worker})


@asynccontextmanager
async def open_client() -> AsyncGenerator[Redis]:
    redis = Redis.from_url(os.environ["REDIS_URL"])
    try:
        await redis.ping()
        yield redis
    finally:
        await redis.aclose()


@asynccontextmanager
async def run_worker(redis: Redis) -> AsyncGenerator[None]:
    worker = asyncio.create_task(count(redis))
    await asyncio.sleep(0)  # a task that is cancelled before its first step does not run its `finally`
    try:
        yield
    finally:
        worker.cancel()
        await asyncio.wait({worker})


@asynccontextmanager
async def fixed_lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with LifecycleStack() as stack:  # exits in reverse order
        app.state.redis = await stack.enter("redis", open_client(), start_timeout=5, stop_timeout=2)
        await stack.enter("worker", run_worker(app.state.redis), start_timeout=5, stop_timeout=2)
        yield


def broken() -> FastAPI:
    return FastAPI(lifespan=broken_lifespan)


def fixed() -> FastAPI:
    return FastAPI(lifespan=fixed_lifespan)
