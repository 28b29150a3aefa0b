"""A close that swallows the cancellation: the caller that cancels the stop sees it succeed."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg
from fastapi import FastAPI


@asynccontextmanager
async def broken_lifespan(app: FastAPI) -> AsyncGenerator[None]:
    database = app.state.database = await asyncpg.connect(os.environ["POSTGRESQL_URL"])
    try:
        yield
    finally:
        try:
            await database.close(timeout=2)
        except (TimeoutError, asyncio.CancelledError):  # "a close must not fail"
            database.terminate()


@asynccontextmanager
async def fixed_lifespan(app: FastAPI) -> AsyncGenerator[None]:
    database = app.state.database = await asyncpg.connect(os.environ["POSTGRESQL_URL"])
    try:
        yield
    finally:
        try:
            await database.close(timeout=2)
        except TimeoutError:
            database.terminate()


def broken() -> FastAPI:
    return FastAPI(lifespan=broken_lifespan)


def fixed() -> FastAPI:
    return FastAPI(lifespan=fixed_lifespan)
