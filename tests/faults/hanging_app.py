"""A program for the tests: `gateway serve`, in which one thing hangs and logs that it does.

    python -m tests.faults.hanging_app before | serving
    python -m tests.faults.hanging_app entering | exiting ENTRY

It ends after as many cancellations as the variable `HANGS_UNTIL_CANCELLED` has.
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
from tests.faults.entry_faults import FaultPlan, faults_injected, patch_entries


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
async def lifespan_that_hangs_first(app: FastAPI) -> AsyncGenerator[State]:
    await hang()
    async with lifespan(app) as state:
        yield state


async def hang_with_session(session: Session) -> None:
    await session.connection()
    await hang()


async def hang_in_response(session: Session) -> StreamingResponse:
    await session.connection()

    async def body() -> AsyncGenerator[str]:
        yield "half"
        await hang()
        yield "a whole"

    return StreamingResponse(body())


plan = FaultPlan()
match sys.argv[1:]:
    case ["before"]:
        gateway.app.lifespan = lifespan_that_hangs_first  # type: ignore[attr-defined]  # imported there
    case ["serving"]:
        health.router.add_api_route("/hang", hang_with_session)
        health.router.add_api_route("/half", hang_in_response)
    case ["entering", name]:
        plan = FaultPlan(on_enter={name: hang})
    case ["exiting", name]:
        plan = FaultPlan(on_exit={name: hang})
sys.argv[1:] = ["serve", "--port", "0"]
patch_entries()
with faults_injected(plan):
    main()
