"""Every point in time: a fault at each iteration of the event loop, and at each step of every task, on real servers.

Wherever it strikes: a cancellation that was injected arrives, an expired deadline costs nobody else anything, and then nothing
is held any more, neither by this process nor by a server.
"""

import asyncio
import math
import os
from collections import Counter
from dataclasses import dataclass, field
from itertools import count

import pytest
import uvloop

from faultlab import Cancel, Case, Fault, Leap, Outcome, Point, sweep
from gateway.app import create_app
from gateway.devstack.stack import Devstack
from gateway.lifecycle import Journal, Kind, StartError, StartTimeoutError, StopTimeoutError, TeardownError
from gateway.lifespan import lifespan
from gateway.settings import Settings
from tests.end_to_end.running import ORDER, held, until
from tests.faults.proof import assert_given_back
from tests.faults.recording import Record
from tests.faults.report import Phase
from tests.faults.stage import live

pytestmark = pytest.mark.usefixtures("census")

FEWEST = {
    ("startup", Point.TICK): {"database": 35, "redis": 12, "rabbitmq": 12},
    ("startup", Point.STEP): {"database": 18, "redis": 6, "rabbitmq": 12},
    ("teardown", Point.TICK): {"database": 1, "redis": 3, "rabbitmq": 20},
    ("teardown", Point.STEP): {"database": 1, "redis": 3, "rabbitmq": 20},
}
"""So many points there are at least; counts differ a little from run to run. Plain clients were seen to have 41 ticks for the
engine and 20 for Redis: ours ask for no TLS unless told to, and have no timeouts of their own, each of which is a few more."""

DEADLINE = 3.0
"""Seconds that an entry may take here: less than any timeout of the libraries, so that whoever leaps over it leaps over
nothing else."""

LONGEST = 1.0
"""Seconds from the strike to the end of the life. That is within the least of the declared deadlines, an entry's: after a
cancellation nothing has to wait for one, and one that was leapt over has passed. What is aborted has a quarter of a second."""

EXPIRED = Leap(DEADLINE + 0.5)
_numbers = count(1)


@dataclass(frozen=True)
class Where:
    """What is counted, and on which event loop."""

    point: Point
    loop: type[asyncio.AbstractEventLoop]

    def __str__(self) -> str:
        return f"{self.point}, {'uvloop' if self.loop is uvloop.Loop else 'asyncio'}"


TICKS = Where(Point.TICK, asyncio.SelectorEventLoop)
STEPS = Where(Point.STEP, asyncio.SelectorEventLoop)
UVLOOP_STEPS = Where(Point.STEP, uvloop.Loop)
EVERYWHERE = pytest.mark.parametrize("where", [TICKS, STEPS, UVLOOP_STEPS], ids=str)


def settings_of(servers: Devstack, name: str) -> Settings:
    deadlines = {"start_timeout": DEADLINE, "stop_timeout": DEADLINE}
    return Settings(
        http={"weather_url": servers.weather.url, **deadlines},
        database={"url": servers.postgresql.url, **deadlines},
        redis={"url": servers.redis.url, **deadlines},
        rabbitmq={"url": servers.rabbitmq.url, **deadlines},
        model=deadlines,
        instance=name,
    )


@dataclass
class Lives:
    """The lifespan at the servers, many times, each under a name of its own: `name` and a number."""

    servers: Devstack
    name: str
    phase: Phase
    journals: dict[str, Journal] = field(default_factory=dict)
    """Of a life for each entry that was at work when the fault struck."""

    async def one(self, case: Case) -> None:
        app = create_app(settings_of(self.servers, f"{self.name}{case.at}"))
        life = lifespan(app)

        def at_work() -> str:
            return entry_at_work(app.state.stack.journal)

        try:
            if self.phase == "startup":
                with case.armed(at_work):
                    await life.__aenter__()
                await life.__aexit__(None, None, None)
            else:
                await life.__aenter__()
                with case.armed(at_work):
                    await life.__aexit__(None, None, None)
        finally:
            # Not some time after whoever asked for it was told, but before.
            assert_given_back(app.state.stack.journal, wrong=ORDER if not case.cancels else ())
            if case.fired:
                self.journals.setdefault(case.during, app.state.stack.journal)

    async def again(self, case: Case) -> None:
        """Start again at once, and stop: whatever became of the life before, this one is clean."""
        app = create_app(settings_of(self.servers, f"{self.name}{case.at}-again"))
        await live(app)
        assert_given_back(app.state.stack.journal)


def entry_at_work(journal: Journal) -> str:
    """The entry that is being entered or released, as the journal has it; "all" if it is none of them."""
    (*_, last) = journal
    return last.name if last.name is not None and last.kind in {Kind.ENTERING, Kind.EXITING} else "all"


PHASES = pytest.mark.parametrize("phase", ["startup", "teardown"])


def prove(servers: Devstack, record: Record, phase: Phase, fault: Fault, where: Where) -> list[Outcome]:
    """Sweep, and assert what holds for every fault."""
    name = f"point-{os.getpid()}-{next(_numbers)}-"
    lives = Lives(servers, name, phase)
    outcomes = sweep(lives.one, point=where.point, fault=fault, loop=where.loop, then=lives.again)
    assert [(outcome.at, outcome.place, outcome.left) for outcome in outcomes if outcome.left] == []
    assert [(outcome.at, outcome.place, outcome.took) for outcome in outcomes if outcome.took > LONGEST] == []

    async def nothing_is_held() -> bool:
        return not await held(servers, name)

    asyncio.run(until(nothing_is_held, "the servers hold nothing of any life"))
    counts = Counter(outcome.during for outcome in outcomes)
    too_few = {entry: counts[entry] for entry, fewest in FEWEST[phase, where.point].items() if counts[entry] < fewest}
    assert not too_few, "fewer points than ever before: explain that before you trust it"

    at = f"{fault}, at each {where}"
    for entry, number in counts.items():
        record(entry, phase, at, cases=number, journal=lives.journals[entry])
    places = {outcome.place for outcome in outcomes}
    record.places(f"{phase}, {at}", places)
    record.finding(
        f"{phase}, {at}",
        f"{phase}, {at}: {len(outcomes)} points in {len(places)} places, "
        f"over within {max(outcome.took for outcome in outcomes) * 1000:.0f} ms; each time the next life is a clean one",
    )
    return outcomes


def assert_each_is_cancelled(outcomes: list[Outcome]) -> None:
    assert [(outcome.at, outcome.place, outcome.error) for outcome in outcomes if outcome.swallowed] == []


@PHASES
def test_cancelled_at_any_tick_everything_is_given_back(servers: Devstack, record: Record, phase: Phase) -> None:
    assert_each_is_cancelled(prove(servers, record, phase, Cancel(), TICKS))


@PHASES
def test_cancelled_at_any_step_of_any_task_everything_is_given_back(
    servers: Devstack, record: Record, phase: Phase
) -> None:
    assert_each_is_cancelled(prove(servers, record, phase, Cancel(), STEPS))


@pytest.mark.long
@PHASES
def test_on_uvloop_cancelled_at_any_step_of_any_task_everything_is_given_back(
    servers: Devstack, record: Record, phase: Phase
) -> None:
    assert_each_is_cancelled(prove(servers, record, phase, Cancel(), UVLOOP_STEPS))


@pytest.mark.long
@PHASES
@pytest.mark.parametrize("again", [1, math.inf], ids=["twice", "at every later point"])
@EVERYWHERE
def test_cancelled_again_and_again_everything_is_given_back(
    servers: Devstack, record: Record, phase: Phase, again: float, where: Where
) -> None:
    assert_each_is_cancelled(prove(servers, record, phase, Cancel(again), where))


@pytest.mark.long
@EVERYWHERE
def test_whenever_the_deadline_of_an_entry_expires_the_start_fails_for_it_and_everything_is_given_back(
    servers: Devstack, record: Record, where: Where
) -> None:
    outcomes = prove(servers, record, "startup", EXPIRED, where)

    failed = [outcome for outcome in outcomes if outcome.error is not None]
    assert len(failed) > len(outcomes) / 2
    for outcome in failed:
        assert isinstance(outcome.error, StartError)
        assert isinstance(outcome.error.__cause__, StartTimeoutError)
        # What expires in between is the deadline of the one before, which is over, or the next one's.
        assert outcome.during in {outcome.error.name, "all"}
        assert outcome.error.teardown is None


@pytest.mark.long
@EVERYWHERE
def test_whenever_the_deadline_of_a_close_expires_it_is_aborted_and_everything_is_given_back(
    servers: Devstack, record: Record, where: Where
) -> None:
    outcomes = prove(servers, record, "teardown", EXPIRED, where)

    failed = [outcome for outcome in outcomes if outcome.error is not None]
    assert failed
    for outcome in failed:
        assert isinstance(outcome.error, TeardownError)
        (late,) = outcome.error.exceptions
        assert isinstance(late, StopTimeoutError)
        assert str(late).startswith(outcome.during)
