"""Readiness: which failures of the database take the process out of service."""

from contextlib import nullcontext

import asyncpg
import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from gateway.event_loop import MAX_LAG, EventLoopMonitor
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


class HeldEventLoop(EventLoopMonitor):
    """Reports that the loop was held, for `lag` seconds at most."""

    def __init__(self, lag: float) -> None:
        super().__init__()
        self.lag = lag

    def recent_lag(self) -> float:
        return self.lag

    def was_held_since(self, _started_at: float) -> bool:
        return True


async def report_after_grace(error: Exception, event_loop: EventLoopMonitor | None = None) -> ReadinessStatus:
    """Return the report after the check of the database has failed for longer than the grace period."""

    async def check() -> None:
        raise error

    async with LifecycleStack() as stack:
        await stack.enter("database", nullcontext(), start_timeout=1, stop_timeout=1, check=check)
        stack.mark_started()
        report = await Readiness(stack, grace=-1, event_loop=event_loop or EventLoopMonitor()).report()
    assert [(result.name, result.ok) for result in report.checks] == [("database", False), ("event_loop", True)]
    return report


async def test_last_failures() -> None:
    """The error of the latest failed check of an entry stays after its recovery, with the time of the journal."""
    results: list[Exception | None] = [ValueError("first"), ValueError("second"), None]

    async def check() -> None:
        if (error := results.pop(0)) is not None:
            raise error

    async with LifecycleStack() as stack:
        await stack.enter("one", nullcontext(), start_timeout=1, stop_timeout=1, check=check)
        stack.mark_started()
        readiness = Readiness(stack, grace=0, event_loop=EventLoopMonitor())
        for _ in range(3):
            readiness._latest = None  # so that the next report is a new one
            report = await readiness.report()
        now = stack.journal.now

    at, error = readiness.last_failures["one"]
    assert report.status == "ok"
    assert str(error) == "second"
    assert 0 < at <= now


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


async def test_timeout_of_an_overloaded_gateway() -> None:
    """A check of the database that times out because the event loop was held takes no process out of service."""
    report = await report_after_grace(TimeoutError("no response"), HeldEventLoop(lag=0.1))

    assert (report.ready, report.status) == (True, "degraded")


async def test_refused_connection_of_an_overloaded_gateway() -> None:
    """A held event loop explains no other error of the database."""
    report = await report_after_grace(ConnectionRefusedError("refused"), HeldEventLoop(lag=0.1))

    assert (report.ready, report.status) == (False, "unavailable")


@pytest.mark.parametrize(("lag", "status"), [(MAX_LAG, "ok"), (MAX_LAG + 0.001, "degraded")])
async def test_lag_of_the_event_loop(lag: float, status: str) -> None:
    """A long lag degrades readiness, and its check has the duration. The process stays ready."""
    async with LifecycleStack() as stack:
        stack.mark_started()
        report = await Readiness(stack, grace=0, event_loop=HeldEventLoop(lag)).report()

    (check,) = report.checks
    assert (report.ready, report.status) == (True, status)
    assert (check.name, check.ok, check.detail) == (
        "event_loop",
        status == "ok",
        f"at most {lag * 1000:.0f} ms late in the last 5 s",
    )
