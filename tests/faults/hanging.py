"""A program for the tests: `gateway serve`, in which one thing hangs, and says so when it does.

    python -m tests.faults.hanging before | serving
    python -m tests.faults.hanging entering | exiting ENTRY

It hangs with all that it has acquired in its hands, until it has been cancelled as often as `HANGS_UNTIL_CANCELLED` says.
"""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from fastapi import FastAPI

import gateway.app
from gateway.api import health
from gateway.briefs.briefs import Briefs
from gateway.cli import main
from gateway.dependencies import Session
from gateway.lifespan import State, lifespan
from gateway.resources.database import DatabaseEngine
from gateway.resources.http import HttpClient
from gateway.resources.model import ModelResource
from gateway.resources.rabbitmq import RabbitMQConnection
from gateway.resources.redis import RedisPool

ENTRIES: dict[str, Any] = {
    "http": HttpClient,
    "database": DatabaseEngine,
    "redis": RedisPool,
    "rabbitmq": RabbitMQConnection,
    "model": ModelResource,
    "briefs": Briefs,
}
"""What has the `open()` that the lifespan enters."""


async def hang() -> None:
    cancellations = int(os.environ["HANGS_UNTIL_CANCELLED"])
    while True:
        structlog.get_logger("tests").info("hanging")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancellations -= 1
            if cancellations == 0:
                raise


@asynccontextmanager
async def hang_before_anything_is_entered(app: FastAPI) -> AsyncGenerator[State]:
    await hang()
    async with lifespan(app) as state:
        yield state


async def hang_with_a_session(session: Session) -> None:
    await session.connection()
    await hang()


def hang_in(entry: Any, phase: str) -> None:
    open_it = entry.open

    @asynccontextmanager
    async def open_and_hang(self: Any) -> AsyncGenerator[Any]:
        async with open_it(self) as value:
            if phase == "entering":
                await hang()
            try:
                yield value
            finally:
                if phase == "exiting":
                    await hang()

    entry.open = open_and_hang


match sys.argv[1:]:
    case ["before"]:
        gateway.app.lifespan = hang_before_anything_is_entered  # type: ignore[attr-defined]  # imported there
    case ["serving"]:
        health.router.add_api_route("/hang", hang_with_a_session)
    case [phase, name]:
        hang_in(ENTRIES[name], phase)
sys.argv[1:] = ["serve", "--port", "0"]
main()
