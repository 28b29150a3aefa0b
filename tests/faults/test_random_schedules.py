"""Random schedules: starts, stops, cancellations, servers that break and are mended, requests, in any order.

What holds after each step does not depend on how one got there: a life that has ended has given everything back, in order; a
request is answered; and once all is mended, the next life is a clean one.
"""

import asyncio
import gc
import os
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from itertools import count
from typing import Any, TypeVar

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from faultlab import ResourceSnapshot
from faultlab.wire import WireFault
from gateway.app import create_app
from gateway.asgi import AppLifespan, Requests
from gateway.devstack.stack import Devstack
from gateway.lifecycle import StartError, TeardownError
from tests.end_to_end.running import ORDER, ZURICH, held, until
from tests.faults.proof import assert_given_back
from tests.faults.recording import Record
from tests.faults.wired import PROTOCOLS, Wired, wired_to

pytestmark = pytest.mark.usefixtures("census")

T = TypeVar("T")

DEADLINE = 0.8
"""Seconds for the start and for the stop of each resource."""

BRIEF = 2.0
"""Seconds for a brief."""

MARGIN = 3.0
"""Seconds for all that does not wait for a deadline, on a busy machine."""

LONGEST = len(PROTOCOLS) * 2 * DEADLINE + MARGIN
"""Seconds for a start that has to be rolled back, or for a stop, whatever is broken."""

ROUNDS, EXAMPLES, STEPS = 5, 20, 15

_numbers = count(1)


class Schedules(RuleBasedStateMachine):
    """One gateway at a time, with a proxy in front of each of its servers."""

    servers: Devstack
    record: Record

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.app: FastAPI | None = None
        self.life: AppLifespan | None = None
        self.broken: set[str] = set()
        self.tainted = False
        """Whether anything was broken during this life: connections that were may not have noticed yet."""

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @initialize()
    def connect(self) -> None:
        self.wired: Wired = self.run(self.stack.enter_async_context(wired_to(self.servers)))
        gc.collect()
        self.before = self.run(ledger())

    @precondition(lambda self: self.life is None)
    @rule()
    def start(self) -> None:
        """It starts, unless something is broken; then it may not, and says which."""
        life = self.new_life()
        began = time.monotonic()
        error = self.run(refusal(life.enter()))
        if error is None:
            self.life = life
        else:
            assert error.name in self.broken
            assert error.entered == tuple(ORDER[: ORDER.index(error.name)])
            self.assert_over()
        assert time.monotonic() - began < LONGEST

    @precondition(lambda self: self.life is None)
    @rule(ticks=st.integers(0, 120))
    def start_and_cancel(self, ticks: int) -> None:
        """It is cancelled; unless it has failed, or is done, by then."""
        life = self.new_life()

        async def start() -> bool:
            entering = asyncio.create_task(life.enter())
            for _ in range(ticks):
                await asyncio.sleep(0)
            entering.cancel()
            await asyncio.wait({entering})
            error = None if entering.cancelled() else entering.exception()
            assert error is None or (isinstance(error, StartError) and error.name in self.broken)
            return not entering.cancelled() and error is None

        if self.run(start()):
            self.life = life
        else:
            self.assert_over()

    @precondition(lambda self: self.life is not None)
    @rule()
    def stop(self) -> None:
        """It stops in time; what is not clean is about what was broken."""
        assert self.life is not None
        began = time.monotonic()
        try:
            self.run(self.life.leave())
        except TeardownError:
            assert self.tainted
        assert time.monotonic() - began < LONGEST
        self.life = None
        self.assert_over()

    @precondition(lambda self: self.life is not None)
    @rule(ticks=st.integers(1, 80))  # with none, it would not have begun
    def stop_and_cancel(self, ticks: int) -> None:
        """It is cancelled while it stops, unless that is done by then: it stops all the same, and in time."""
        assert self.life is not None
        life = self.life
        began = time.monotonic()

        async def stop() -> None:
            leaving = asyncio.create_task(life.leave())
            for _ in range(ticks):
                await asyncio.sleep(0)
            early = not leaving.done()
            leaving.cancel()
            await asyncio.wait({leaving})
            assert leaving.cancelled() is early or self.tainted
            if not leaving.cancelled() and leaving.exception() is not None:
                assert self.tainted
                assert isinstance(leaving.exception(), TeardownError)

        self.run(stop())
        assert time.monotonic() - began < LONGEST
        self.life = None
        self.assert_over()

    @precondition(lambda self: self.life is not None)
    @rule()
    def request(self) -> None:
        """It is answered: with everything, unless something was broken; in time, whatever is."""
        answer, took = self.run(self.ask())
        note(f"{answer.status_code} after {took:.3f} s")
        assert took < BRIEF + MARGIN
        assert answer.status_code in ({200, 503} if self.tainted else {200})
        if not self.tainted:
            assert answer.json()["complete"] is True

    @rule(resource=st.sampled_from(list(PROTOCOLS)), fault=st.sampled_from(WireFault))
    def break_it(self, resource: str, fault: WireFault) -> None:
        async def strike() -> None:
            self.wired.proxies[resource].break_now(fault)

        self.run(strike())
        self.broken.add(resource)
        self.tainted = True

    @rule(resource=st.sampled_from(list(PROTOCOLS)))
    def repair(self, resource: str) -> None:
        self.run(self.wired.proxies[resource].recover())
        self.broken.discard(resource)

    def teardown(self) -> None:
        try:
            if self.life is not None:
                self.stop()
            for resource in PROTOCOLS:
                self.repair(resource)
            self.start()
            self.request()
            self.stop()
        finally:
            self.run(self.stack.aclose())
            self.runner.close()
        self.record("all", "serving", "a random schedule")

    def new_life(self) -> AppLifespan:
        self.tainted = bool(self.broken)
        self.name = name = f"schedule-{os.getpid()}-{next(_numbers)}-"
        deadlines = dict.fromkeys(PROTOCOLS, (DEADLINE, DEADLINE))
        self.app = create_app(self.wired.settings(name, deadlines, brief_timeout=BRIEF))
        return AppLifespan(self.app)

    async def ask(self) -> tuple[httpx.Response, float]:
        assert self.app is not None
        assert self.life is not None
        transport = httpx.ASGITransport(Requests(self.app, self.life.state))
        began = time.monotonic()
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            answer = await client.get(f"/v1/places/{ZURICH}/brief")
        return answer, time.monotonic() - began

    def assert_over(self) -> None:
        """The life has ended: everything is given back, and nothing is held, neither here nor on the wire nor by a server."""
        assert self.app is not None
        if hasattr(self.app.state, "stack"):  # it may have been cancelled before it began
            assert_given_back(self.app.state.stack.journal, wrong=ORDER if self.tainted else ())
        self.run(self.settle())

    async def settle(self) -> None:
        async def nothing_is_held() -> bool:
            wire = [one for proxy in self.wired.proxies.values() for one in proxy.open_connections]
            here = ResourceSnapshot.take().leaked_since(self.before)
            return (
                not wire and not here and not await held(self.servers, self.name, broker=False)
            )  # it is asked in the end

        await until(nothing_is_held, "neither this process nor the wire nor a server holds anything")


async def refusal(start: Coroutine[Any, Any, None]) -> StartError | None:
    try:
        await start
    except StartError as error:
        return error
    return None


async def ledger() -> ResourceSnapshot:
    return ResourceSnapshot.take()


@pytest.mark.long
@pytest.mark.parametrize("turn", range(1, ROUNDS + 1))
def test_after_any_schedule_everything_is_given_back_and_the_next_life_is_a_clean_one(
    servers: Devstack, record: Record, turn: int
) -> None:
    del turn  # each has schedules of its own
    Schedules.servers, Schedules.record = servers, record
    run_state_machine_as_test(
        Schedules,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],  # a schedule that fails is short enough, and to make it shorter takes minutes
        ),
    )
