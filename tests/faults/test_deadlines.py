"""Deadlines: the timeout of the entry that is being entered or released expires, wherever it is."""

import pytest

from faultlab import ExpireDeadlines
from gateway.lifecycle import StartTimeoutError, StopTimeoutError
from tests.faults.entry_faults import EXPIRED
from tests.faults.harness import ALL_POINTS, MAX_DURATION, FaultLab, Points

pytestmark = [pytest.mark.usefixtures("no_broker_leaks"), pytest.mark.long]

each_kind_of_point = pytest.mark.parametrize("points", ALL_POINTS, ids=str)


@each_kind_of_point
def test_start_deadline_expires_at_every_point(lab: FaultLab, points: Points) -> None:
    """Wherever the start timeout of an entry expires, the startup fails for that entry, everything before it is released in
    reverse order, nothing leaks, and the next run is clean. At a few points the entry is already active.
    """
    runs = failures = 0
    for run in lab.sweep("startup", inject=ExpireDeadlines(EXPIRED), at=points):
        runs += 1
        with run:
            assert run.released == [*reversed(run.entered)]
            assert run.leaks == []
            assert run.duration < MAX_DURATION
            assert run.restart.is_clean
            if run.error is not None:
                failures += 1
                assert isinstance(run.start_error.__cause__, StartTimeoutError)
                # Between two entries, the timeout of the previous one is over and that of the next one has not begun.
                assert run.active_entry in {run.start_error.name, "all"}
                assert run.teardown_errors == []

    assert failures > runs / 2
    assert lab.server_connections() == []


@each_kind_of_point
def test_stop_deadline_expires_at_every_point(lab: FaultLab, points: Points) -> None:
    """Wherever the stop timeout of an entry expires, that entry is aborted and named in the error, the others are released in
    reverse order, nothing leaks, and the next run is clean. At some points the entry has already exited.
    """
    failures = 0
    for run in lab.sweep("teardown", inject=ExpireDeadlines(EXPIRED), at=points):
        with run:
            assert run.released == [*reversed(run.entered)]
            assert run.leaks == []
            assert run.duration < MAX_DURATION
            assert run.restart.is_clean
            if run.error is not None:
                failures += 1
                (timeout,) = run.teardown_errors
                assert isinstance(timeout, StopTimeoutError)
                assert str(timeout).startswith(run.active_entry)

    assert failures > 0
    assert lab.server_connections() == []
