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

import structlog
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

import gateway.app
from gateway.api import health
from gateway.cli import main
from gateway.dependencies import Session
from gateway.lifespan import State, lifespan
from tests.faults.breaking import Plan, make_breakable, planned


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


async def hang_in_the_middle_of_an_answer(session: Session) -> StreamingResponse:
    await session.connection()

    async def answer() -> AsyncGenerator[str]:
        yield "half"
        await hang()
        yield "a whole"

    return StreamingResponse(answer())


plan = Plan()
match sys.argv[1:]:
    case ["before"]:
        gateway.app.lifespan = hang_before_anything_is_entered  # type: ignore[attr-defined]  # imported there
    case ["serving"]:
        health.router.add_api_route("/hang", hang_with_a_session)
        health.router.add_api_route("/half", hang_in_the_middle_of_an_answer)
    case ["entering", name]:
        plan = Plan(entering={name: hang})
    case ["exiting", name]:
        plan = Plan(exiting={name: hang})
sys.argv[1:] = ["serve", "--port", "0"]
make_breakable()
with planned(plan):
    main()
