"""Forced shutdown: the stack is aborted, as after a second stop signal, wherever it is.

`gateway serve` ends the process half a second later, whatever hangs. Here the process continues and shows what is open.
"""

import pytest

from gateway.lifecycle import EventType, ForcedShutdownError, StartError
from tests.faults.harness import ALL_POINTS, MAX_DURATION, FaultLab, Points
from tests.faults.lifespan_run import LifespanRun

pytestmark = [pytest.mark.usefixtures("no_broker_leaks"), pytest.mark.long]

each_kind_of_point = pytest.mark.parametrize("points", ALL_POINTS, ids=str)


def expected_aborts(run: LifespanRun) -> list[str]:
    """Return what had to be aborted: every entry that was open, the latest first.

    The entry that was being entered or released may have finished in that very iteration.
    """
    first, *others = run.open_at_injection or [""]
    return run.open_at_injection if first in run.aborted else others


def expected_exits(run: LifespanRun) -> list[str]:
    """Return what had to exit on its own: every entry that was not aborted, in reverse order."""
    return [name for name in reversed(run.entered) if name not in run.aborted]


def reported_errors(run: LifespanRun) -> list[type[BaseException]]:
    """Return the types of the errors: the reason of the start error, if there is one, and those of the teardown."""
    start = [type(run.error.__cause__)] if isinstance(run.error, StartError) else []
    return [*start, *map(type, run.teardown_errors)]


@each_kind_of_point
def test_forced_during_startup(lab: FaultLab, points: Points) -> None:
    """A forced shutdown during the startup aborts every open entry, the latest first, reports each of them, leaks nothing, and
    the next run is clean.
    """
    for run in lab.sweep("startup", inject=lab.forced_shutdown, at=points):
        with run:
            assert run.aborted == expected_aborts(run)
            assert run.exited == expected_exits(run)
            assert reported_errors(run) == [ForcedShutdownError] * len(run.aborted)
            if isinstance(run.error, StartError):
                assert run.active_entry in {run.error.name, "all"}
            else:  # the startup was complete before the abort could reach it
                assert run.active_entry in {"briefs", "all"}
            assert EventType.ABANDONED not in {event.type for event in run.journal}
            assert run.leaks == []
            assert run.duration < MAX_DURATION
            assert run.restart.is_clean

    assert lab.server_connections() == []


@each_kind_of_point
def test_forced_during_rollback(lab: FaultLab, points: Points) -> None:
    """A forced shutdown during the rollback of a cancelled startup aborts what is still open, and the startup stays
    cancelled.
    """
    for run in lab.sweep("rollback", inject=lab.forced_shutdown, at=points):
        with run:
            assert run.outcome == "cancelled"
            assert run.aborted == expected_aborts(run)
            assert run.exited == expected_exits(run)
            assert EventType.ABANDONED not in {event.type for event in run.journal}
            assert run.leaks == []
            assert run.duration < MAX_DURATION
            assert run.restart.is_clean

    assert lab.server_connections() == []


@each_kind_of_point
def test_forced_during_teardown(lab: FaultLab, points: Points) -> None:
    """A forced shutdown during the teardown aborts what is still open, the latest first, and reports each of them in the
    `TeardownError`.
    """
    for run in lab.sweep("teardown", inject=lab.forced_shutdown, at=points):
        with run:
            assert run.aborted == expected_aborts(run)
            assert run.exited == expected_exits(run)
            assert not isinstance(run.error, StartError)
            assert reported_errors(run) == [ForcedShutdownError] * len(run.aborted)
            assert EventType.ABANDONED not in {event.type for event in run.journal}
            assert run.leaks == []
            assert run.duration < MAX_DURATION
            assert run.restart.is_clean

    assert lab.server_connections() == []
