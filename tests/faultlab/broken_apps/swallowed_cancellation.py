"""A close that swallows the cancellation: whoever cancels the stop is told that it went well."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg
from fastapi import FastAPI


@asynccontextmanager
async def naive_lifespan(app: FastAPI) -> AsyncGenerator[None]:
    database = app.state.database = await asyncpg.connect(os.environ["POSTGRESQL_URL"])
    try:
        yield
    finally:
        try:
            await database.close(timeout=2)
        except (TimeoutError, asyncio.CancelledError):  # "a close must not fail"
            database.terminate()


@asynccontextmanager
async def cured_lifespan(app: FastAPI) -> AsyncGenerator[None]:
    database = app.state.database = await asyncpg.connect(os.environ["POSTGRESQL_URL"])
    try:
        yield
    finally:
        try:
            await database.close(timeout=2)
        except TimeoutError:
            database.terminate()


def naive() -> FastAPI:
    return FastAPI(lifespan=naive_lifespan)


def cured() -> FastAPI:
    return FastAPI(lifespan=cured_lifespan)
