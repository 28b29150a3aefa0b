"""Checks the lifespan of an ASGI app: runs it without a fault, then with a fault at every point of each phase."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .asgi import App, LifespanFailedError, get, lifespan_of
from .faults import Cancel, Fault
from .injection_points import InjectionPoint, short_path
from .partition import NetworkPartition
from .sweep import Outcome, Run, run_once, sweep
from .timeline import RunTimeline
from .tracking import AcquisitionTracker, track_tasks

BASELINE_RUNS = 2  # the second one finds what the first has used up: a client created at import, for example

_THIS_PACKAGE = f"{Path(short_path(__file__)).parent}/"
_NEXT_STEP = "its next step"  # the location of a point at which code of this package ran last

Scenario = Callable[[App, Run], Coroutine[Any, Any, None]]


class BaselineError(Exception):
    """The app fails without a fault, so that a fault would show nothing. The message is one line."""


class RunFailedError(Exception):
    """A run of the app failed. The message is one line."""


class RunTimeoutError(RunFailedError):
    """A run of the app took longer than the limit."""


@dataclass
class Finding:
    """A result that one or more points of a phase have in common.

    Attributes:
        leaks: what was open after the run and not before it, and errors that no task awaited.
        error: how the run failed, or None.
        points: the numbers of the injection points, or of the runs without a fault.
        locations: where the fault was injected, for each point.
        timeline: the timeline of the first of these points.
    """

    leaks: list[str]
    error: str | None = None
    points: list[int] = field(default_factory=list)
    locations: list[str] = field(default_factory=list)
    timeline: list[str] = field(default_factory=list)


@dataclass
class PhaseResult:
    """The result of one phase of the check.

    Attributes:
        name: the phase.
        points: the number of runs, with one injection point each.
        reports: what was found, without duplicates; empty if the app passed.
        unit: what a point is: "tick", "step" or "run"; empty if the phase is not repeated.
        starts: how often the app started in the phase without a fault.
    """

    name: str
    points: int
    reports: list[Finding]
    unit: str = ""
    starts: int = BASELINE_RUNS

    @property
    def leaking_points(self) -> int:
        """The number of points after which something was open."""
        return sum(len(report.points) for report in self.reports if report.leaks)

    @property
    def failing_points(self) -> int:
        """The number of points at which the run failed: a swallowed cancellation, a failed stop, a timeout."""
        return sum(len(report.points) for report in self.reports if report.error is not None)


@dataclass(frozen=True)
class LifespanChecker:
    """The settings of a check.

    Attributes:
        make_app: returns the app; a new one for each run, if there is a factory.
        tracker: records where the app acquires resources.
        point: the kind of injection point.
        path: the path of the request during which the app is stopped, or None.
        partition: also stop the app while no server answers.
        limit: seconds for one run.
        heartbeat: called in each iteration of the event loop, to detect an app that blocks it.
    """

    make_app: Callable[[], App]
    tracker: AcquisitionTracker
    point: InjectionPoint = InjectionPoint.LOOP_ITERATION
    path: str | None = None
    partition: bool = False
    limit: float = 10.0
    heartbeat: Callable[[], object] = lambda: None

    def phases(self) -> Iterator[PhaseResult]:
        """Run the check phase by phase and yield the result of each.

        Raises:
            BaselineError: the app fails without a fault.
        """
        baseline = self._run_baseline()
        yield baseline
        if baseline.starts < BASELINE_RUNS:
            return  # it starts only once, so that there is nothing to compare a fault with
        stable = not baseline.failing_points
        yield from self._sweep("startup", _cancelled_start, Cancel(), stable=stable)
        yield from self._sweep("teardown", _cancelled_stop, Cancel(), stable=stable)
        if self.path is not None:
            yield from self._sweep("request", _cancelled_request(self.path), Cancel(), stable=stable)
        if self.partition:
            yield from self._sweep("partition", _first_point_only(_cancelled_stop), NetworkPartition(), stable=stable)

    def _run_baseline(self) -> PhaseResult:
        starts = 0

        async def start_and_stop(app: App) -> None:
            nonlocal starts
            async with lifespan_of(app):
                starts += 1

        reports = _Reports()
        for at in range(1, BASELINE_RUNS + 1):
            timeline = RunTimeline()

            async def run(timeline: RunTimeline = timeline) -> None:
                failure = await self._limited(start_and_stop(self._make_observed_app(timeline, None)))
                if failure is not None:
                    raise failure

            outcome = run_once(run, expected_errors=RunFailedError)
            if not starts:
                raise BaselineError(f"does not start, even without a fault: {outcome.error}")
            reports.add(at, outcome, None, timeline)
        return PhaseResult("no fault", BASELINE_RUNS, reports.all, "run", starts)

    def _sweep(self, name: str, scenario: Scenario, fault: Fault, *, stable: bool) -> Iterator[PhaseResult]:
        """Inject the fault at every point of the scenario.

        Args:
            name: the name of the phase.
            scenario: one run of the app.
            fault: what is injected.
            stable: the app did not fail in the baseline, so that a failure before the injection is unexpected.

        Raises:
            BaselineError: a run failed before the fault was injected. The reports of earlier runs are yielded first.
        """
        timelines: dict[int, RunTimeline] = {}

        async def run_app(run: Run) -> None:
            timeline = timelines[run.at] = RunTimeline()
            failure = await self._limited(scenario(self._make_observed_app(timeline, run), run))
            if failure is not None and run.fired:
                raise failure
            if failure is not None and stable:
                raise BaselineError(
                    f"failed without a fault, after the {name} was disturbed {len(timelines) - 1} times: {failure}"
                )

        reports, points = _Reports(), 0
        interruption: BaselineError | None = None
        try:
            for outcome in sweep(run_app, point=self.point, fault=fault, expected_errors=RunFailedError):
                points += 1
                reports.add(outcome.at, outcome, fault, timelines[outcome.at])
        except BaselineError as error:
            interruption = error
        if reports.all or interruption is None:
            yield PhaseResult(name, points, reports.all, self.point.value)
        if interruption is not None:
            raise interruption

    def _make_observed_app(self, timeline: RunTimeline, run: Run | None) -> App:
        track_tasks()
        timeline.begin(self.tracker, run, self.heartbeat)
        app = self.make_app()
        timeline.app_refs.append(app)
        return app

    async def _limited(self, scenario: Coroutine[Any, Any, None]) -> RunFailedError | None:
        """Run the scenario within the limit. Return its failure as a new error, which refers to no frame of the app."""
        timeout = asyncio.timeout(self.limit)
        try:
            async with timeout:
                await scenario
        except BaselineError:
            raise
        except Exception as error:  # noqa: BLE001 - an app may raise anything
            if timeout.expired():
                return RunTimeoutError(f"the run did not end within {self.limit:g} s")
            return RunFailedError(_one_line(error))
        return None


class _Reports:
    """Collects the outcomes of a phase. Points with the same result share a report."""

    def __init__(self) -> None:
        self._reports: dict[tuple[str, ...], Finding] = {}

    @property
    def all(self) -> list[Finding]:
        return list(self._reports.values())

    def add(self, at: int, outcome: Outcome, fault: Fault | None, timeline: RunTimeline) -> None:
        leaks, error = _leaks(outcome), _error(outcome, fault)
        if not leaks and error is None:
            return
        location = _NEXT_STEP if outcome.location.startswith(_THIS_PACKAGE) else outcome.location
        injection = "" if fault is None else f"{_describe(fault)} {location}"
        report = self._reports.setdefault(
            (*leaks, f"error: {error}"), Finding(leaks, error, timeline=timeline.lines(injection))
        )
        report.points.append(at)
        if fault is not None:
            report.locations.append(location)


async def _cancelled_start(app: App, run: Run) -> None:
    lifespan = lifespan_of(app)
    with run.armed():
        await lifespan.__aenter__()
    await lifespan.__aexit__(None, None, None)


async def _cancelled_stop(app: App, run: Run) -> None:
    lifespan = lifespan_of(app)
    await lifespan.__aenter__()
    with run.armed():
        await lifespan.__aexit__(None, None, None)


def _cancelled_request(path: str) -> Scenario:
    """Stop the app during a request: the request is cancelled and the teardown begins immediately, as in uvicorn."""

    async def run_app(app: App, run: Run) -> None:
        lifespan = lifespan_of(app)
        state = await lifespan.__aenter__()
        request = asyncio.create_task(get(app, path, state), name="request")
        try:
            with run.armed():
                await asyncio.wait({request})
        finally:
            request.cancel()
            await lifespan.__aexit__(None, None, None)
            await asyncio.wait({request})
            error = asyncio.CancelledError() if request.cancelled() else request.exception()
        status = repr(error) if error else request.result()
        if status not in range(200, 400):
            raise BaselineError(f"does not serve GET {path}, even without a fault: {status}")

    return run_app


def _first_point_only(scenario: Scenario) -> Scenario:
    async def run_app(app: App, run: Run) -> None:
        if run.at == 1:
            await scenario(app, run)

    return run_app


def _leaks(outcome: Outcome) -> list[str]:
    lines = [_normalize(line) for line in outcome.leaked]
    still_open = [line for line in lines if not line.startswith("ResourceWarning:")]  # these repeat the other lines
    return [
        line if times == 1 else f"{times} times {line}" for line, times in sorted(Counter(still_open or lines).items())
    ]


def _error(outcome: Outcome, fault: Fault | None) -> str | None:
    if outcome.error is None:
        return None
    if isinstance(fault, NetworkPartition) and not isinstance(outcome.error, RunTimeoutError):
        return None  # while its servers do not respond, an app may report that its stop failed
    return _normalize(str(outcome.error))


def _one_line(error: Exception) -> str:
    return " ".join((str(error) if isinstance(error, LifespanFailedError) else repr(error)).split())


def _describe(fault: Fault) -> str:
    return "cancelled   at" if isinstance(fault, Cancel) else f"{fault}, at"


def _normalize(line: str) -> str:
    """Replace what differs from one run to the next, so that equal leaks have equal lines."""
    line = re.sub(r"0x[0-9a-f]+", "0x...", line)
    line = re.sub(r"\b(fd|raddr|laddr)=(\d+|\([^)]*\))", r"\1=...", line)
    line = re.sub(r"/tmp/tmp\w+", "/tmp/tmp...", line)  # noqa: S108 - a pattern in a text
    line = re.sub(r"\bThreadPoolExecutor-\d+_\d+", "ThreadPoolExecutor-..._...", line)
    return re.sub(r"\b(Task-|Thread-|waitpid-|subprocess |asyncio_)\d+\b", r"\1...", line)
