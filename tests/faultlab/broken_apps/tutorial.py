"""The lifespan of FastAPI's documentation. It is correct for a model, and leaks if it opens connections instead."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from gateway.lifecycle import LifecycleStack


def fake_answer_to_everything_ml_model(x: float) -> float:
    return x * 42


ml_models: dict[str, Any] = {}


@asynccontextmanager
async def harmless_lifespan(_app: FastAPI) -> AsyncGenerator[None]:
    # Load the ML model
    ml_models["answer_to_everything"] = fake_answer_to_everything_ml_model
    yield
    # Clean up the ML models and release the resources
    ml_models.clear()


@asynccontextmanager
async def broken_lifespan(app: FastAPI) -> AsyncGenerator[None]:
    app.state.redis = Redis.from_url(os.environ["REDIS_URL"])
    await app.state.redis.ping()
    app.state.database = create_async_engine(os.environ["DATABASE_URL"])
    async with app.state.database.connect() as connection:
        await connection.execute(text("SELECT 1"))
    yield
    await app.state.database.dispose()
    await app.state.redis.aclose()


@asynccontextmanager
async def open_redis() -> AsyncGenerator[Redis]:
    redis = Redis.from_url(os.environ["REDIS_URL"])
    try:
        await redis.ping()
        yield redis
    finally:
        await redis.aclose()


@asynccontextmanager
async def open_database() -> AsyncGenerator[AsyncEngine]:
    database = create_async_engine(os.environ["DATABASE_URL"])
    try:
        async with database.connect() as connection:
            await connection.execute(text("SELECT 1"))
        yield database
    finally:
        await database.dispose()


@asynccontextmanager
async def fixed_lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with LifecycleStack() as stack:
        app.state.redis = await stack.enter("redis", open_redis(), start_timeout=5, stop_timeout=2)
        app.state.database = await stack.enter("database", open_database(), start_timeout=5, stop_timeout=2)
        yield


def harmless() -> FastAPI:
    return FastAPI(lifespan=harmless_lifespan)


def broken() -> FastAPI:
    return FastAPI(lifespan=broken_lifespan)


def fixed() -> FastAPI:
    return FastAPI(lifespan=fixed_lifespan)
