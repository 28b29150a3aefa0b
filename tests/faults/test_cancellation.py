"""Cancellation: the task that enters or exits the lifespan is cancelled, wherever it is."""

import math

import pytest

from faultlab import Cancel
from tests.faults.harness import ALL_POINTS, LOOP_ITERATIONS, MAX_DURATION, FaultLab, Points
from tests.support.entries import SweptPhase

pytestmark = pytest.mark.usefixtures("no_broker_leaks")

PHASES = ["startup", pytest.param("teardown", marks=pytest.mark.long)]
TIMES = {"once": 0, "twice": 1, "at every later point": math.inf}
CASES = [
    pytest.param(Cancel(), LOOP_ITERATIONS, 3, id="once-every third loop iteration, asyncio"),
    *(
        pytest.param(Cancel(repeat), points, 1, id=f"{times}-{points}", marks=pytest.mark.long)
        for times, repeat in TIMES.items()
        for points in ALL_POINTS
    ),
]


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(("cancellation", "points", "step"), CASES)
def test_cancelled_at_every_point(
    lab: FaultLab, cancellation: Cancel, points: Points, step: int, phase: SweptPhase
) -> None:
    """Wherever the lifespan is cancelled, the cancellation arrives, every entry exits in reverse order, nothing leaks, and
    the next run is clean.
    """
    for run in lab.sweep(phase, inject=cancellation, at=points, step=step):
        with run:
            assert run.outcome == "cancelled"
            assert run.released == [*reversed(run.entered)]
            assert run.unclean == set()
            assert run.leaks == []
            assert run.duration < MAX_DURATION
            assert run.restart.is_clean

    assert lab.server_connections() == []
