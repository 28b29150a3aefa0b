"""Double faults: two entries fail in one run. Each other entry is released, in order and in time.

Every pair of entries is a case of its own. No timeout is waited for: an entry that hangs lets the timers
of the event loop expire.
"""

from itertools import combinations

import pytest

from gateway.lifecycle import TeardownError
from tests.faults.entry_faults import (
    ENTRY_FAULTS,
    EntryFault,
    hang_past_the_timeout_while_cancelled,
    hang_while_cancelled,
    patch_entries,
)
from tests.faults.harness import MAX_DURATION, FaultLab
from tests.support.entries import ENTRIES, entries_before

pytestmark = pytest.mark.usefixtures("no_broker_leaks", "frozen_objects", "patched_entries")

each_pair = pytest.mark.parametrize(("earlier", "later"), list(combinations(ENTRIES, 2)))
each_start_fault = pytest.mark.parametrize("start_fault", ENTRY_FAULTS, ids=str)
each_stop_fault = pytest.mark.parametrize("stop_fault", ENTRY_FAULTS, ids=str)


@pytest.fixture
def patched_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_entries(monkeypatch.setattr)


@pytest.mark.long
@each_pair
@each_stop_fault
@each_start_fault
def test_failed_start_then_failed_stop(
    lab: FaultLab, start_fault: EntryFault, stop_fault: EntryFault, earlier: str, later: str
) -> None:
    """`later` fails to start with `start_fault`. During the rollback, `earlier` fails to stop with `stop_fault`. The others are
    released in reverse order, and the `StartError` names `later` and carries the error of `earlier`.
    """
    run = lab.run(on_enter={later: start_fault.hook}, on_exit={earlier: stop_fault.hook})

    assert run.start_error.name == later
    assert run.start_error.entered == tuple(entries_before(later))
    assert isinstance(run.start_error.__cause__, start_fault.start_error)
    assert [type(error) for error in run.teardown_errors] == [stop_fault.stop_error]
    assert run.entered == entries_before(later)
    assert run.released == [*reversed(run.entered)]
    assert run.unclean == {earlier}
    assert run.duration < MAX_DURATION
    assert run.leaks == []
    assert lab.server_connections() == []
    assert run.restart.is_clean


@each_pair
@pytest.mark.parametrize(
    "stop_fault",
    # The others take the same path, and all of them are in the longer tests.
    [
        pytest.param(fault, id=str(fault), marks=() if fault is ENTRY_FAULTS[0] else pytest.mark.long)
        for fault in ENTRY_FAULTS
    ],
)
def test_cancelled_start_then_failed_stop(lab: FaultLab, stop_fault: EntryFault, earlier: str, later: str) -> None:
    """The startup is cancelled while `later` is entered and, during the rollback, `earlier` fails to stop: the startup stays
    cancelled, and the others are released in reverse order.
    """
    run = lab.run(on_enter={later: hang_while_cancelled}, on_exit={earlier: stop_fault.hook})

    assert run.outcome == "cancelled"
    assert run.entered == entries_before(later)
    assert run.released == [*reversed(run.entered)]
    assert run.unclean == {earlier}
    assert run.duration < MAX_DURATION
    assert run.leaks == []
    assert lab.server_connections() == []
    assert run.restart.is_clean


@pytest.mark.long
@each_pair
@each_start_fault
def test_failed_start_then_cancelled_rollback(lab: FaultLab, start_fault: EntryFault, earlier: str, later: str) -> None:
    """`later` fails to start and, during the rollback, the caller is cancelled while `earlier` hangs: the rollback is
    completed, and then the cancellation is raised.
    """
    run = lab.run(on_enter={later: start_fault.hook}, on_exit={earlier: hang_past_the_timeout_while_cancelled})

    assert run.outcome == "cancelled"
    assert run.entered == entries_before(later)
    assert run.released == [*reversed(run.entered)]
    assert run.unclean == {earlier}
    assert run.duration < MAX_DURATION
    assert run.leaks == []
    assert lab.server_connections() == []
    assert run.restart.is_clean


@pytest.mark.long
@each_pair
@pytest.mark.parametrize("second", ENTRY_FAULTS, ids=str)
@pytest.mark.parametrize("first", ENTRY_FAULTS, ids=str)
def test_two_failed_stops(lab: FaultLab, first: EntryFault, second: EntryFault, earlier: str, later: str) -> None:
    """`later` and then `earlier` fail to stop: the `TeardownError` has both errors in that order, and the others are released
    in reverse order.
    """
    run = lab.run(on_exit={later: first.hook, earlier: second.hook})

    assert isinstance(run.error, TeardownError)
    assert [type(error) for error in run.teardown_errors] == [first.stop_error, second.stop_error]
    assert run.entered == ENTRIES
    assert run.released == [*reversed(run.entered)]
    assert run.unclean == {earlier, later}
    assert run.duration < MAX_DURATION
    assert run.leaks == []
    assert lab.server_connections() == []
    assert run.restart.is_clean
