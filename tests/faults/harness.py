"""The fault lab of the gateway: runs its lifespan against real servers, with a fault, and returns what became of it."""

import asyncio
import gc
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass

import httpx
import uvloop
from fastapi import FastAPI
from stamina.instrumentation import RetryDetails, get_on_retry_hooks, set_on_retry_hooks

from faultlab import Call, Fault, InjectionPoint, ResourceSnapshot, run_once, sweep
from gateway.app import create_app
from gateway.devstack.server import Server
from gateway.devstack.stack import Devstack
from gateway.lifecycle import EventType, StartError, TeardownError, format_error
from gateway.serving.lifespan_manager import LifespanManager, StatefulApp
from gateway.settings import Settings
from tests.end_to_end.harness import ANYIO_RUNNER, open_connections
from tests.faults.entry_faults import ENTRY_TIMEOUT, FaultPlan, Hook, faults_injected
from tests.faults.lifespan_run import LifespanRun, enter_and_exit, journal_of
from tests.faults.lifespan_sweep import LifespanSweep
from tests.support.entries import RESOURCES, TABLE, SweptPhase, server_for
from tests.support.proxied import ProxiedServers

MAX_DURATION = 1.0  # from an injection to the end of a run: far less than a timeout, far more than the 20 ms measured
MAX_SWEEPS = 3  # RabbitMQ closes in 35 steps in one run and in 38 in the next, so that one sweep can miss a short step
LEAK_TIMEOUT = 10.0  # for transports and servers to close a connection; after that, it has leaked
LEAK_CHECK_INTERVAL = 0.005

_EXPECTED_ERRORS = (StartError, TeardownError)  # of the lifespan: any other error in a run is a bug of the test


@dataclass(frozen=True)
class Points:
    """Which injection points a sweep counts, and on which event loop."""

    kind: InjectionPoint
    loop: type[asyncio.AbstractEventLoop]

    def __str__(self) -> str:
        return f"{'loop iteration' if self.kind is InjectionPoint.LOOP_ITERATION else 'task step'}, {self.loop_name}"

    @property
    def loop_name(self) -> str:
        return "uvloop" if self.loop is uvloop.Loop else "asyncio"


LOOP_ITERATIONS = Points(InjectionPoint.LOOP_ITERATION, asyncio.SelectorEventLoop)  # only asyncio's loops have them
TASK_STEPS = Points(InjectionPoint.TASK_STEP, asyncio.SelectorEventLoop)
UVLOOP_TASK_STEPS = Points(InjectionPoint.TASK_STEP, uvloop.Loop)
ALL_POINTS = [LOOP_ITERATIONS, TASK_STEPS, UVLOOP_TASK_STEPS]


class FaultLab:
    """Runs the gateway's lifespan with a fault, in one of two ways.

    An async test uses `running()` or `start_and_stop()`: the lifespan runs in the test's event loop, while the test does
    something to the servers or to the wire. A sync test uses `run()` or `sweep()`: the lifespan runs in an event loop of
    its own, whose timers the lab expires, so that no timeout is waited for. There, every resource has `ENTRY_TIMEOUT`
    seconds to start and to stop.
    """

    def __init__(self, servers: Devstack, settings: Settings) -> None:
        self.servers = servers
        self.settings = settings
        self.proxies: ProxiedServers | None = None
        self.runs: list[LifespanRun] = []
        self.cases: Counter[str] = Counter()  # by entry, for a test that has more than one case
        self.locations: set[str] = set()  # where faults were injected
        self.slowest_run = 0.0
        self._app = FastAPI()  # of the last run in the event loop of the test
        self._sweep: LifespanSweep | None = None
        self._loop_errors: list[str] = []
        self._before = ResourceSnapshot.take()

    # Arrange.

    def override(self, entry: str, **changes: object) -> None:
        """Change settings of one resource, for the runs that follow."""
        group = getattr(self.settings, entry)
        validated = type(group)(**(dict(group) | changes))
        self.settings = self.settings.model_copy(update={entry: validated})

    def server(self, entry: str) -> Server:
        """Return the server of a resource."""
        return server_for(entry, self.servers)

    def connect_through(self, proxies: ProxiedServers) -> None:
        """Route the connections of the runs that follow through proxies."""
        self.proxies = proxies
        self.settings = proxies.route(self.settings)
        self._before = ResourceSnapshot.take()

    # Run in the event loop of an async test.

    @asynccontextmanager
    async def running(self, app: FastAPI | None = None) -> AsyncIterator[LifespanRun]:
        """Start the lifespan, yield the run, and stop the lifespan at the end of the block.

        A `StartError` is raised; a `TeardownError` is stored in the run.
        """
        self._app, run = app or create_app(self.settings), LifespanRun()
        app = self._app
        self.runs.append(run)
        manager = LifespanManager(app)
        closed = len(self.proxies.log.closed) if self.proxies else 0
        started = time.monotonic()
        try:
            await manager.startup()
            run.startup_duration = time.monotonic() - started
            run.stack, run.services = app.state.stack, manager.state["services"]
            try:
                transport = httpx.ASGITransport(StatefulApp(app, manager.state))
                async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as run.client:
                    yield run
            finally:
                started = time.monotonic()
                await manager.shutdown()
        except TeardownError as error:
            run.outcome, run.error = "failed", error
        except StartError as error:
            run.outcome, run.error, run.startup_duration = "failed", error, time.monotonic() - started
            raise
        finally:
            run.teardown_duration = time.monotonic() - started
            run.journal = journal_of(app)
            run.wire = self.proxies.log.closed[closed:] if self.proxies else []

    async def start_and_stop(
        self,
        *,
        inside: AbstractContextManager[object] | None = None,
        before_stop: Callable[[], Awaitable[object]] | None = None,
    ) -> LifespanRun:
        """Start and stop the lifespan. Return the run, with its `StartError` or `TeardownError` if there was one.

        Args:
            inside: a context that is entered before the startup and exited after the teardown.
            before_stop: called between the startup and the teardown, if the startup succeeds.
        """
        first, app = len(self.runs), create_app(self.settings)
        with inside or nullcontext(), suppress(StartError):
            async with self.running(app):
                if before_stop is not None:
                    await before_stop()
        return self.runs[first]

    def is_entering(self, entry: str) -> bool:
        """Return whether the startup in progress is entering this entry."""
        events = [*self._app.state.stack.journal] if hasattr(self._app.state, "stack") else []
        return bool(events) and events[-1].type is EventType.ENTERING and events[-1].name == entry

    async def leaks(self) -> list[str]:
        """Return what is open now and was not open before: in this process, on the wire and at the servers.

        A close takes a moment on either side, so this waits until nothing is left, for `LEAK_TIMEOUT` at most.
        """
        gc.collect()  # an error that no task awaited is reported when it is collected
        return await _until_empty(self._leaks) + self._loop_errors

    async def _leaks(self) -> list[str]:
        here = [line for line in ResourceSnapshot.take().leaked_since(self._before) if ANYIO_RUNNER not in line]
        wire = self.proxies.open_connections() if self.proxies else []
        # RabbitMQ takes half a second to list its connections: see the fixture `no_broker_leaks`.
        return here + wire or await open_connections(self.servers, self.settings.instance, broker=False)

    @contextmanager
    def loop_errors_collected(self) -> Iterator[None]:
        """Inside the block, add the errors that the event loop reports to the leaks."""
        loop = asyncio.get_running_loop()
        handler = loop.get_exception_handler()
        loop.set_exception_handler(lambda _loop, context: self._loop_errors.append(f"event loop: {context}"))
        try:
            yield
        finally:
            loop.set_exception_handler(handler)

    # Run in an event loop of its own.

    def run(
        self, *, on_enter: Mapping[str, Hook] | None = None, on_exit: Mapping[str, Hook] | None = None
    ) -> LifespanRun:
        """Run the lifespan with faults inside its entries, and once more without a fault (`restart`)."""
        app, run = create_app(self._with_entry_timeouts()), LifespanRun()
        self.runs.append(run)

        async def enter_and_exit_in_a_task() -> None:
            task = asyncio.create_task(enter_and_exit(app))  # a hook can cancel it
            await asyncio.wait({task})
            run.journal = journal_of(app)
            if task.cancelled():
                run.outcome = "cancelled"
            else:
                task.result()

        with faults_injected(FaultPlan(on_enter=on_enter or {}, on_exit=on_exit or {})):
            run.add(run_once(enter_and_exit_in_a_task, expected_errors=_EXPECTED_ERRORS))
        run.restart = self._run_clean()
        run.leaks += run.restart.leaks
        return run

    def _run_clean(self) -> LifespanRun:
        app, run = create_app(self._with_entry_timeouts()), LifespanRun()
        run.add(run_once(lambda: enter_and_exit(app), expected_errors=_EXPECTED_ERRORS))
        run.journal = journal_of(app)
        return run

    def sweep(
        self,
        phase: SweptPhase,
        *,
        inject: Fault,
        at: Points,
        step: int = 1,
    ) -> Iterator[LifespanRun]:
        """Run the lifespan again and again, with the fault `step` points later each time. Yield each run when it has ended.

        Each run is followed by a `restart` without a fault, in the same event loop.

        Raises:
            AssertionError: the sweep had fewer points in an entry than ever seen, so that it may have missed some.
        """
        measured_phase: SweptPhase = "startup" if phase == "startup" else "teardown"
        minimum = {entry.name: entry.min_points[measured_phase, at.kind] // step for entry in TABLE if entry.min_points}
        max_points: Counter[str] = Counter()
        for _ in range(MAX_SWEEPS):
            found: Counter[str] = Counter()
            self._sweep = LifespanSweep(self._with_entry_timeouts(), phase)
            for outcome in sweep(
                self._sweep.run_with_fault,
                point=at.kind,
                fault=inject,
                loop=at.loop,
                follow_up=self._sweep.restart,
                expected_errors=_EXPECTED_ERRORS,
                step=step,
            ):
                run = self._sweep.finish(outcome)
                self.locations.add(outcome.location)
                self.slowest_run = max(self.slowest_run, run.duration)
                found[run.active_entry] += 1
                if found[run.active_entry] == 1:
                    self.runs.append(run)  # one for each entry is enough to look at
                yield run
            self.cases += found
            max_points |= found
            if all(max_points[entry] >= points for entry, points in minimum.items()):
                return
        too_few = {entry: max_points[entry] for entry, points in minimum.items() if max_points[entry] < points}
        raise AssertionError(f"fewer points than ever seen: {too_few} instead of {minimum}. Find out why.")

    def _with_entry_timeouts(self) -> Settings:
        timeouts = {"start_timeout": ENTRY_TIMEOUT, "stop_timeout": ENTRY_TIMEOUT}
        groups = {entry: getattr(self.settings, entry).model_copy(update=timeouts) for entry in RESOURCES}
        return self.settings.model_copy(update=groups)

    @property
    def forced_shutdown(self) -> Fault:
        """A fault for `sweep`: the stack is aborted, as after a second stop signal."""
        return Call(self._abort_stack, "forced shutdown")

    def _abort_stack(self) -> None:
        assert self._sweep is not None
        self._sweep.stack.abort()

    def server_connections(self) -> list[str]:
        """Return the connections of the runs that a server still has open after `LEAK_TIMEOUT`."""

        async def check() -> list[str]:
            return await open_connections(self.servers, self.settings.instance, broker=False)

        return asyncio.run(_until_empty(check))


async def _until_empty(check: Callable[[], Awaitable[list[str]]]) -> list[str]:
    """Return an empty list as soon as `check` does, or what it returns after `LEAK_TIMEOUT`."""
    deadline = time.monotonic() + LEAK_TIMEOUT
    while (found := await check()) and time.monotonic() < deadline:  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(LEAK_CHECK_INTERVAL)
    return found


@contextmanager
def retries_captured() -> Iterator[list[str]]:
    """Collect the errors after which a resource retries, inside the block."""
    errors: list[str] = []

    def on_retry(details: RetryDetails) -> None:
        errors.append(format_error(details.caused_by))

    before = get_on_retry_hooks()
    set_on_retry_hooks([on_retry])
    try:
        yield errors
    finally:
        set_on_retry_hooks(before)
