"""Every point in time: a fault at each iteration of the event loop, and at each step of every task, on real servers.

Wherever it strikes: a cancellation that was injected arrives, an expired deadline costs nobody else anything, and then nothing
is held any more, neither by this process nor by a server.
"""

import math

import pytest

from faultlab import Cancel, ExpireDeadlines, Outcome
from gateway.devstack.stack import Devstack
from gateway.lifecycle import StartError, StartTimeoutError, StopTimeoutError, TeardownError
from tests.faults.points import DEADLINE, EVERYWHERE, PHASES, STEPS, TICKS, UVLOOP_STEPS, Lives, Where, prove
from tests.faults.recording import Record
from tests.faults.report import Phase

pytestmark = pytest.mark.usefixtures("census")

EXPIRED = ExpireDeadlines(DEADLINE + 0.5)


def assert_each_is_cancelled(outcomes: list[Outcome]) -> None:
    assert [(outcome.at, outcome.location, outcome.error) for outcome in outcomes if not outcome.cancelled] == []


@PHASES
def test_cancelled_at_any_tick_everything_is_given_back(servers: Devstack, record: Record, phase: Phase) -> None:
    assert_each_is_cancelled(prove(Lives(servers, phase), record, Cancel(), TICKS))


@PHASES
def test_cancelled_at_any_step_of_any_task_everything_is_given_back(
    servers: Devstack, record: Record, phase: Phase
) -> None:
    assert_each_is_cancelled(prove(Lives(servers, phase), record, Cancel(), STEPS))


@pytest.mark.long
@PHASES
def test_on_uvloop_cancelled_at_any_step_of_any_task_everything_is_given_back(
    servers: Devstack, record: Record, phase: Phase
) -> None:
    assert_each_is_cancelled(prove(Lives(servers, phase), record, Cancel(), UVLOOP_STEPS))


@pytest.mark.long
@PHASES
@pytest.mark.parametrize("again", [1, math.inf], ids=["twice", "at every later point"])
@EVERYWHERE
def test_cancelled_again_and_again_everything_is_given_back(
    servers: Devstack, record: Record, phase: Phase, again: float, where: Where
) -> None:
    assert_each_is_cancelled(prove(Lives(servers, phase), record, Cancel(again), where))


@pytest.mark.long
@EVERYWHERE
def test_whenever_the_deadline_of_an_entry_expires_the_start_fails_for_it_and_everything_is_given_back(
    servers: Devstack, record: Record, where: Where
) -> None:
    outcomes = prove(Lives(servers, "startup"), record, EXPIRED, where)

    failed = [outcome for outcome in outcomes if outcome.error is not None]
    assert len(failed) > len(outcomes) / 2
    for outcome in failed:
        assert isinstance(outcome.error, StartError)
        assert isinstance(outcome.error.__cause__, StartTimeoutError)
        # What expires in between is the deadline of the one before, which is over, or the next one's.
        assert outcome.activity in {outcome.error.name, "all"}
        assert outcome.error.teardown is None


@pytest.mark.long
@EVERYWHERE
def test_whenever_the_deadline_of_a_close_expires_it_is_aborted_and_everything_is_given_back(
    servers: Devstack, record: Record, where: Where
) -> None:
    outcomes = prove(Lives(servers, "teardown"), record, EXPIRED, where)

    failed = [outcome for outcome in outcomes if outcome.error is not None]
    assert failed
    for outcome in failed:
        assert isinstance(outcome.error, TeardownError)
        (late,) = outcome.error.exceptions
        assert isinstance(late, StopTimeoutError)
        assert str(late).startswith(outcome.activity)
