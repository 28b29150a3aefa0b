"""Readiness: which failures of the database take the process out of service."""

from contextlib import nullcontext

import asyncpg
import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from gateway.lifecycle import LifecycleStack
from gateway.readiness import Readiness, ReadinessStatus
from gateway.resources.base import DegradedError, PermanentError

SHARED_BY_ALL = [DegradedError("read-only"), PoolTimeoutError("all connections are in use")]
UNREACHABLE = [
    ConnectionRefusedError("refused"),
    TimeoutError("no response"),
    PermanentError("wrong password"),
    asyncpg.ConnectionDoesNotExistError("closed"),
    asyncpg.CannotConnectNowError("the server is starting up"),
]


async def report_after_grace(error: Exception) -> ReadinessStatus:
    """Return the report after the check of the database has failed for longer than the grace period."""

    async def check() -> None:
        raise error

    async with LifecycleStack() as stack:
        await stack.enter("database", nullcontext(), start_timeout=1, stop_timeout=1, check=check)
        stack.mark_started()
        report = await Readiness(stack, grace=-1).report()
    assert [result.ok for result in report.checks] == [False]
    return report


@pytest.mark.parametrize("error", SHARED_BY_ALL, ids=repr)
async def test_shared_problem_keeps_the_process_ready(error: Exception) -> None:
    """A problem that all replicas share takes none of them out of service, however long it lasts."""
    report = await report_after_grace(error)

    assert (report.ready, report.status) == (True, "degraded")


@pytest.mark.parametrize("error", UNREACHABLE, ids=repr)
async def test_unreachable_database(error: Exception) -> None:
    """A process that cannot reach the database is not ready."""
    report = await report_after_grace(error)

    assert (report.ready, report.status) == (False, "unavailable")
