"""A close that swallows the cancellation: whoever cancels the stop is told that it went well."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg
from fastapi import FastAPI


@asynccontextmanager
async def naive_lifespan(app: FastAPI) -> AsyncGenerator[None]:
    database = app.state.database = await asyncpg.connect(os.environ["DATABASE_URL"].replace("+asyncpg", ""))
    try:
        yield
    finally:
        try:
            await database.close()
        except (Exception, asyncio.CancelledError):  # "a close must not fail"
            database.terminate()


@asynccontextmanager
async def cured_lifespan(app: FastAPI) -> AsyncGenerator[None]:
    database = app.state.database = await asyncpg.connect(os.environ["DATABASE_URL"].replace("+asyncpg", ""))
    try:
        yield
    finally:
        try:
            await database.close()
        except Exception:
            database.terminate()


def naive() -> FastAPI:
    return FastAPI(lifespan=naive_lifespan)


def cured() -> FastAPI:
    return FastAPI(lifespan=cured_lifespan)
