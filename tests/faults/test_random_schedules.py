"""Random schedules: starts, stops, cancellations, broken and recovered servers, requests, in any order.

The claims after each step do not depend on the steps before: a run that has ended has released everything in order, a request
gets a response, and with all servers recovered the next run is clean.
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
from gateway.lifecycle import StartError, TeardownError
from gateway.serving.lifespan_manager import LifespanManager, StatefulApp
from tests.end_to_end.harness import ZURICH, open_connections
from tests.faults.harness import FaultLab
from tests.faults.lifespan_run import LifespanRun, journal_of
from tests.support.entries import ENTRIES, WITH_SERVER, entries_before
from tests.support.proxied import proxied
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_broker_leaks")

T = TypeVar("T")

ENTRY_TIMEOUT = 0.8  # of each resource, to start and to stop
BRIEF_TIMEOUT = 2.0
MARGIN = 3.0  # for everything that does not wait for a timeout, on a busy machine
MAX_DURATION = len(WITH_SERVER) * 2 * ENTRY_TIMEOUT + MARGIN  # of a failed startup or of a teardown, with any faults

TURNS, EXAMPLES, STEPS = 5, 20, 15

_numbers = count(1)


class Schedule(RuleBasedStateMachine):
    """One gateway at a time, with a proxy in front of each of its servers."""

    lab: FaultLab

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.app: FastAPI | None = None
        self.lifespan: LifespanManager | None = None  # while it is active
        self.broken: set[str] = set()
        self.disturbed = False  # a server was broken during this run: its connections may not have noticed yet

    def call(self, coro: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(coro)

    @initialize()
    def connect(self) -> None:
        self.proxies = self.call(self.stack.enter_async_context(proxied(self.lab.servers)))
        gc.collect()
        self.before = self.call(snapshot())

    @precondition(lambda self: self.lifespan is None)
    @rule()
    def start(self) -> None:
        """The startup succeeds; with a broken server it may fail, and the error names that server's resource."""
        lifespan = self.new_lifespan()
        started = time.monotonic()
        error = self.call(start_error(lifespan.startup()))
        if error is None:
            self.lifespan = lifespan
        else:
            assert error.name in self.broken
            assert error.entered == tuple(entries_before(error.name))
            self.assert_released()
        assert time.monotonic() - started < MAX_DURATION

    @precondition(lambda self: self.lifespan is None)
    @rule(iterations=st.integers(0, 120))
    def start_and_cancel(self, iterations: int) -> None:
        """The startup is cancelled, unless it has ended before."""
        lifespan = self.new_lifespan()

        async def start() -> bool:
            entering = asyncio.create_task(lifespan.startup())
            for _ in range(iterations):
                await asyncio.sleep(0)
            entering.cancel()
            await asyncio.wait({entering})
            error = None if entering.cancelled() else entering.exception()
            assert error is None or (isinstance(error, StartError) and error.name in self.broken)
            return not entering.cancelled() and error is None

        if self.call(start()):
            self.lifespan = lifespan
        else:
            self.assert_released()

    @precondition(lambda self: self.lifespan is not None)
    @rule()
    def stop(self) -> None:
        """The teardown ends in time; it is clean unless a server was broken."""
        assert self.lifespan is not None
        started = time.monotonic()
        try:
            self.call(self.lifespan.shutdown())
        except TeardownError:
            assert self.disturbed
        assert time.monotonic() - started < MAX_DURATION
        self.lifespan = None
        self.assert_released()

    @precondition(lambda self: self.lifespan is not None)
    @rule(iterations=st.integers(1, 80))  # with none, the teardown would not have begun
    def stop_and_cancel(self, iterations: int) -> None:
        """A teardown that is cancelled is completed, in time."""
        assert self.lifespan is not None
        lifespan = self.lifespan
        started = time.monotonic()

        async def stop() -> None:
            leaving = asyncio.create_task(lifespan.shutdown())
            for _ in range(iterations):
                await asyncio.sleep(0)
            pending = not leaving.done()
            leaving.cancel()
            await asyncio.wait({leaving})
            assert leaving.cancelled() is pending or self.disturbed
            if not leaving.cancelled() and leaving.exception() is not None:
                assert self.disturbed
                assert isinstance(leaving.exception(), TeardownError)

        self.call(stop())
        assert time.monotonic() - started < MAX_DURATION
        self.lifespan = None
        self.assert_released()

    @precondition(lambda self: self.lifespan is not None)
    @rule()
    def request(self) -> None:
        """A request gets a response in time; it is complete unless a server was broken."""
        response, duration = self.call(self.get_brief())
        note(f"{response.status_code} after {duration:.3f} s")
        assert duration < BRIEF_TIMEOUT + MARGIN
        assert response.status_code in ({200, 503} if self.disturbed else {200})
        if not self.disturbed:
            assert response.json()["complete"] is True

    @rule(entry=st.sampled_from(WITH_SERVER), fault=st.sampled_from(WireFault))
    def break_server(self, entry: str, fault: WireFault) -> None:
        async def break_now() -> None:
            self.proxies[entry].break_now(fault)

        self.call(break_now())
        self.broken.add(entry)
        self.disturbed = True

    @rule(entry=st.sampled_from(WITH_SERVER))
    def recover_server(self, entry: str) -> None:
        self.call(self.proxies[entry].recover())
        self.broken.discard(entry)

    def teardown(self) -> None:
        try:
            if self.lifespan is not None:
                self.stop()
            for entry in WITH_SERVER:
                self.recover_server(entry)
            self.start()
            self.request()
            self.stop()
        finally:
            self.call(self.stack.aclose())
            self.runner.close()
        self.lab.cases["all"] += 1

    def new_lifespan(self) -> LifespanManager:
        self.disturbed = bool(self.broken)
        self.instance = f"schedule-{os.getpid()}-{next(_numbers)}-"
        changes = {"instance": self.instance, "brief_timeout": BRIEF_TIMEOUT}
        self.app = create_app(self.proxies.route(self.lab.settings.model_copy(update=changes)))
        return LifespanManager(self.app)

    async def get_brief(self) -> tuple[httpx.Response, float]:
        assert self.app is not None
        assert self.lifespan is not None
        transport = httpx.ASGITransport(StatefulApp(self.app, self.lifespan.state))
        started = time.monotonic()
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            response = await client.get(f"/v1/places/{ZURICH}/brief")
        return response, time.monotonic() - started

    def assert_released(self) -> None:
        """The run has ended: everything is released in order, and nothing leaks here, on the wire or at a server."""
        assert self.app is not None
        run = LifespanRun(journal=journal_of(self.app))
        self.lab.runs.append(run)
        assert run.released == [*reversed(run.entered)]
        assert run.unclean <= ({*ENTRIES} if self.disturbed else set())
        self.call(self.wait_until_closed())

    async def wait_until_closed(self) -> None:
        async def closed() -> bool:
            here = ResourceSnapshot.take().leaked_since(self.before)
            return not (here or self.proxies.open_connections()) and not await open_connections(
                self.lab.servers, self.instance, broker=False
            )

        await wait_until(closed, "nothing is open in this process, on the wire and at the servers")


async def start_error(start: Coroutine[Any, Any, None]) -> StartError | None:
    try:
        await start
    except StartError as error:
        return error
    return None


async def snapshot() -> ResourceSnapshot:
    return ResourceSnapshot.take()


@pytest.mark.long
@pytest.mark.parametrize("turn", range(1, TURNS + 1))
def test_random_schedule(lab: FaultLab, turn: int) -> None:
    """After any schedule, everything is released, and the next run is clean."""
    del turn  # each has other schedules
    for entry in WITH_SERVER:
        lab.override(entry, start_timeout=ENTRY_TIMEOUT, stop_timeout=ENTRY_TIMEOUT)
    Schedule.lab = lab
    run_state_machine_as_test(
        Schedule,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],  # a failing schedule is short enough, and shrinking it takes minutes
        ),
    )

    assert lab.cases["all"] > 0
