"""Every start fault with every teardown fault: whatever two entries do, the others are released, in order and in time."""

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from itertools import combinations

import pytest

from gateway.app import create_app
from gateway.lifecycle import (
    EntryCrashedError,
    EventType,
    Journal,
    StartError,
    StartTimeoutError,
    StopTimeoutError,
    TeardownError,
)
from gateway.lifespan import lifespan
from gateway.settings import Settings
from tests.end_to_end.running import ORDER, RESOURCES, WORKERS, assert_nothing_is_held, until
from tests.faults.breaking import Plan, Step, be_cancelled, fail, hang, make_breakable, planned
from tests.faults.proof import assert_given_back
from tests.faults.stage import Stage

pytestmark = pytest.mark.usefixtures("census")

START, STOP = 1.5, 0.6
"""Seconds: the deadlines of each entry here. RabbitMQ closes as soon as it has made its queues, which the relay may be at."""

WORKER_STOP = 3.0
"""Those of what works with the resources are no settings."""

MARGIN = 1.4
"""Seconds for all that does not wait for a deadline, on a busy machine (0.4 were seen); less than a start that is waited for in
vain."""

AT_ONCE = 8
"""Lives that run beside each other: most of them wait for a deadline most of the time."""

FAULTS: dict[str, tuple[Step, type[Exception], type[Exception]]] = {
    "raises": (fail, ValueError, ValueError),
    "hangs": (hang, StartTimeoutError, StopTimeoutError),
    "is cancelled": (be_cancelled, EntryCrashedError, EntryCrashedError),
}
"""What an entry does, and what is said of it when it does so in the startup, and in the teardown."""


@dataclass
class Life:
    """One life of the lifespan, with what goes wrong in it."""

    settings: Settings
    plan: Plan
    waits: float = 0
    """The deadlines that expire in it, added up: nothing else takes any time."""
    cancelled_while: EventType | None = None
    """Cancel whoever waits, as soon as something of this kind happens to the entry that goes wrong."""
    cancelled_in: str = ""
    error: BaseException | None = None

    async def live(self) -> Journal:
        """Live it; return the journal, once all that a journal must prove is proved."""
        began = time.monotonic()
        app = create_app(self.settings)
        with planned(self.plan):
            life = asyncio.create_task(_life(lifespan(app)))
        if self.cancelled_while is not None:

            async def is_there() -> bool:
                journal = app.state.stack.journal if hasattr(app.state, "stack") else ()
                return (self.cancelled_while, self.cancelled_in) in [(event.type, event.name) for event in journal]

            await until(is_there, f"{self.cancelled_in} is {self.cancelled_while}")
            life.cancel()
        await asyncio.wait({life})
        took = time.monotonic() - began
        self.error = asyncio.CancelledError() if life.cancelled() else life.exception()
        journal: Journal = app.state.stack.journal
        assert_given_back(journal, wrong=(*self.plan.entering, *self.plan.exiting))
        assert took < self.waits + MARGIN
        return journal


def waits(fault: str, deadline: float) -> float:
    """What an entry that does so takes."""
    return deadline if fault == "hangs" else 0


async def _life(one: AbstractAsyncContextManager[object]) -> None:
    async with one:
        pass


@pytest.fixture(autouse=True)
def _breakable(monkeypatch: pytest.MonkeyPatch) -> None:
    make_breakable(monkeypatch.setattr)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """With deadlines that are worth waiting for."""
    groups = {name: getattr(settings, name) for name in RESOURCES}
    short = {
        name: group.model_copy(update={"start_timeout": START, "stop_timeout": STOP}) for name, group in groups.items()
    }
    return settings.model_copy(update=short)


async def together(stage: Stage, lives: list[Life]) -> list[Journal]:
    """Live them all, some beside each other. Afterwards no server holds anything, and the next life is a clean one."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, life: Life) -> Journal:
        life.settings = life.settings.model_copy(update={"instance": f"{life.settings.instance}{number}"})
        async with gate:
            return await life.live()

    journals = await asyncio.gather(*(one(number, life) for number, life in enumerate(lives)))
    await assert_nothing_is_held(stage.servers, stage.settings.instance)
    again = Life(stage.settings, Plan())
    await again.live()
    assert again.error is None
    return list(journals)


def stop_of(name: str) -> float:
    return WORKER_STOP if name in WORKERS else STOP


PAIRS = list(combinations(ORDER, 2))


@pytest.mark.long
@pytest.mark.parametrize("in_teardown", FAULTS)
@pytest.mark.parametrize("in_start", FAULTS)
async def test_an_entry_that_fails_to_start_and_one_that_fails_to_close_keep_no_other_open(
    stage: Stage, in_start: str, in_teardown: str
) -> None:
    start, start_error, _ = FAULTS[in_start]
    stop, _, stop_error = FAULTS[in_teardown]
    lives = [
        Life(
            stage.settings,
            Plan(entering={later: start}, exiting={earlier: stop}),
            waits(in_start, START) + waits(in_teardown, stop_of(earlier)),
        )
        for earlier, later in PAIRS
    ]
    journals = await together(stage, lives)

    for (_, later), life, journal in zip(PAIRS, lives, journals, strict=True):
        assert isinstance(life.error, StartError)
        assert life.error.name == later
        assert life.error.entered == tuple(ORDER[: ORDER.index(later)])
        assert isinstance(life.error.__cause__, start_error)
        assert life.error.teardown is not None
        (unclean,) = life.error.teardown.exceptions
        assert isinstance(unclean, stop_error)
        stage.record(later, "startup", f"{in_start}; then the close of another {in_teardown}", journal=journal)


@pytest.mark.parametrize("in_teardown", FAULTS)
async def test_a_start_that_is_cancelled_stays_cancelled_whatever_a_close_does(stage: Stage, in_teardown: str) -> None:
    stop, _, _ = FAULTS[in_teardown]
    lives = [
        Life(
            stage.settings,
            Plan(entering={later: hang}, exiting={earlier: stop}),
            waits(in_teardown, stop_of(earlier)),
            cancelled_while=EventType.ENTERING,
            cancelled_in=later,
        )
        for earlier, later in PAIRS
    ]
    journals = await together(stage, lives)

    for (_, later), life, journal in zip(PAIRS, lives, journals, strict=True):
        assert isinstance(life.error, asyncio.CancelledError)
        stage.record(
            later, "startup", f"the start is cancelled; then the close of another {in_teardown}", journal=journal
        )


@pytest.mark.long
@pytest.mark.parametrize("in_start", FAULTS)
async def test_a_rollback_that_is_cancelled_is_complete_all_the_same(stage: Stage, in_start: str) -> None:
    """The close of an entry takes until its deadline, and while it does whoever waits is cancelled."""
    start, _, _ = FAULTS[in_start]
    lives = [
        Life(
            stage.settings,
            Plan(entering={later: start}, exiting={earlier: hang}),
            waits(in_start, START) + stop_of(earlier),
            cancelled_while=EventType.EXITING,
            cancelled_in=earlier,
        )
        for earlier, later in PAIRS
    ]
    journals = await together(stage, lives)

    for (_, later), life, journal in zip(PAIRS, lives, journals, strict=True):
        assert isinstance(life.error, asyncio.CancelledError)
        stage.record(later, "startup", f"{in_start}; then the rollback is cancelled", journal=journal)


@pytest.mark.long
@pytest.mark.parametrize("second", FAULTS)
@pytest.mark.parametrize("first", FAULTS)
async def test_two_closes_that_fail_are_both_reported_and_keep_no_other_open(
    stage: Stage, first: str, second: str
) -> None:
    (do_first, _, first_error), (do_second, _, second_error) = FAULTS[first], FAULTS[second]
    lives = [
        Life(
            stage.settings,
            Plan(exiting={later: do_first, earlier: do_second}),
            waits(first, stop_of(later)) + waits(second, stop_of(earlier)),
        )
        for earlier, later in PAIRS
    ]
    journals = await together(stage, lives)

    for (_, later), life, journal in zip(PAIRS, lives, journals, strict=True):
        assert isinstance(life.error, TeardownError)
        assert [type(error) for error in life.error.exceptions] == [first_error, second_error]
        stage.record(later, "teardown", f"{first}; then the close of another {second}", journal=journal)
