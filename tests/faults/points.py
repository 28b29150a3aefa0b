"""The lifespan at real servers, again and again, with a fault at every point in time; and what each case must prove."""

import asyncio
import os
from collections import Counter
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import count

import pytest
import uvloop
from fastapi import FastAPI

from faultlab import Fault, InjectionPoint, Outcome, Run, sweep
from gateway.app import create_app
from gateway.devstack.stack import Devstack
from gateway.lifecycle import EventType, Journal, StartError, TeardownError
from gateway.lifespan import lifespan
from gateway.settings import Settings
from tests.end_to_end.running import ORDER, held, until
from tests.faults.proof import assert_given_back
from tests.faults.recording import Record
from tests.faults.report import Phase
from tests.faults.stage import live

FEWEST = {
    ("startup", InjectionPoint.LOOP_ITERATION): {"database": 35, "redis": 12, "rabbitmq": 12},
    ("startup", InjectionPoint.TASK_STEP): {"database": 18, "redis": 6, "rabbitmq": 12},
    ("teardown", InjectionPoint.LOOP_ITERATION): {"database": 3, "redis": 3, "rabbitmq": 20},
    ("teardown", InjectionPoint.TASK_STEP): {"database": 1, "redis": 3, "rabbitmq": 20},
}
"""So many points there are at least; counts differ a little from run to run. Plain clients were seen to have 41 ticks for the
engine and 20 for Redis: ours ask for no TLS unless told to, and have no timeouts of their own, each of which is a few more. A plain
engine was seen to close in 3 ticks and one suspension; ours in 5 to 7 ticks and 2 to 4 steps."""

SWEEPS = 3
"""The most sweeps for one proof. RabbitMQ says goodbye in 35 steps in one life and in 38 in the next, as its frames come together
or one by one: the database has 3 steps right after it, and a sweep, which strikes each life once, can leap over all of them."""

DEADLINE = 3.0
"""Seconds that an entry may take here: less than any timeout of the libraries, so that whoever leaps over it leaps over
nothing else."""

LONGEST = 1.0
"""Seconds from the strike to the end of the life. That is within the least of the declared deadlines, an entry's: after a
cancellation nothing has to wait for one, and one that was leapt over has passed. What is aborted has a quarter of a second."""

_numbers = count(1)


@dataclass(frozen=True)
class Where:
    """What is counted, and on which event loop."""

    point: InjectionPoint
    loop: type[asyncio.AbstractEventLoop]

    def __str__(self) -> str:
        return f"{self.point}, {'uvloop' if self.loop is uvloop.Loop else 'asyncio'}"


TICKS = Where(InjectionPoint.LOOP_ITERATION, asyncio.SelectorEventLoop)
STEPS = Where(InjectionPoint.TASK_STEP, asyncio.SelectorEventLoop)
UVLOOP_STEPS = Where(InjectionPoint.TASK_STEP, uvloop.Loop)
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
    phase: Phase
    """Which half of each life the fault strikes."""
    name: str = field(default_factory=lambda: f"point-{os.getpid()}-{next(_numbers)}-")
    app: FastAPI = field(default_factory=FastAPI)
    """The one that lives."""
    journals: dict[str, Journal] = field(default_factory=dict)
    """Of a life for each entry that was at work when the fault struck."""

    async def one(self, case: Run) -> None:
        self.app = create_app(settings_of(self.servers, f"{self.name}{case.at}"))
        try:
            await self.struck(case, lifespan(self.app))
        finally:
            if case.fired:
                self.journals.setdefault(case.activity, self.journal)
            self.assert_over(case)  # not some time after whoever asked for it was told, but before

    async def struck(self, case: Run, life: AbstractAsyncContextManager[object]) -> None:
        if self.phase == "startup":
            with case.armed(self.at_work):
                await life.__aenter__()
            await life.__aexit__(None, None, None)
        else:
            await life.__aenter__()
            with case.armed(self.at_work):
                await life.__aexit__(None, None, None)

    def assert_over(self, case: Run) -> None:
        assert_given_back(self.journal, wrong=ORDER if not case.cancels else ())

    async def again(self, case: Run) -> None:
        """Start again at once, and stop: whatever became of the life before, this one is clean."""
        app = create_app(settings_of(self.servers, f"{self.name}{case.at}-again"))
        await live(app)
        assert_given_back(app.state.stack.journal)

    @property
    def journal(self) -> Journal:
        journal: Journal = self.app.state.stack.journal
        return journal

    def at_work(self) -> str:
        """The entry that is being entered or released, as the journal has it; "all" if it is none of them."""
        (*_, last) = self.journal
        return last.name if last.name is not None and last.type in {EventType.ENTERING, EventType.EXITING} else "all"


PHASES = pytest.mark.parametrize("phase", ["startup", "teardown"])


def prove(lives: Lives, record: Record, fault: Fault, where: Where) -> list[Outcome]:
    """Sweep, and assert what holds for every fault."""
    fewest = FEWEST[lives.phase, where.point]
    outcomes: list[Outcome] = []
    most: Counter[str] = Counter()
    for _ in range(SWEEPS):
        some = list(
            sweep(
                lives.one,
                point=where.point,
                fault=fault,
                loop=where.loop,
                follow_up=lives.again,
                expected_errors=(StartError, TeardownError),
            )
        )
        outcomes += some
        most |= Counter(outcome.activity for outcome in some)
        if all(most[entry] >= at_least for entry, at_least in fewest.items()):
            break
    assert [(outcome.at, outcome.location, outcome.leaked) for outcome in outcomes if outcome.leaked] == []
    assert [
        (outcome.at, outcome.location, outcome.duration) for outcome in outcomes if outcome.duration > LONGEST
    ] == []

    async def nothing_is_held() -> bool:
        return not await held(lives.servers, lives.name)

    asyncio.run(until(nothing_is_held, "the servers hold nothing of any life"))
    counts = Counter(outcome.activity for outcome in outcomes)
    too_few = {entry: most[entry] for entry, at_least in fewest.items() if most[entry] < at_least}
    assert not too_few, "fewer points than ever before: explain that before you trust it"

    at = f"{fault}, at each {where}"
    for entry, number in counts.items():
        record(entry, lives.phase, at, cases=number, journal=lives.journals[entry])
    places = {outcome.location for outcome in outcomes}
    record.places(f"{lives.phase}, {at}", places)
    record.finding(
        f"{lives.phase}, {at}",
        f"{lives.phase}, {at}: {len(outcomes)} points in {len(places)} places, "
        f"over within {max(outcome.duration for outcome in outcomes) * 1000:.0f} ms; each time the next life is a clean one",
    )
    return outcomes
