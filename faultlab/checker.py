"""The examination of an ASGI app: which faults strike in which phase of its life, and what each leaves behind."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

from faultlab.asgi import App, LifespanFailedError, get, lifespan_of
from faultlab.faults import Cancel, Fault
from faultlab.injection_points import InjectionPoint
from faultlab.partition import NetworkPartition
from faultlab.sweep import Outcome, Run, sweep
from faultlab.timeline import RunTimeline
from faultlab.tracking import AcquisitionTracker, remember_tasks

_BEFORE = "its next step"
"""Where the app is cancelled when it was the lab that ran last."""

Scenario = Callable[[App, Run], Coroutine[Any, Any, None]]

LIVES = 2
"""How often an app lives without a fault. The second finds what the first has used up: a client that was made at import."""


class UnusableError(Exception):
    """The app does not even start without a fault, so faults would show nothing."""


@dataclass
class LeakReport:
    """The same guilt, at one point or at many."""

    guilt: list[str]
    """What was left behind, or went wrong."""
    points: list[int] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    story: list[str] = field(default_factory=list)
    """The timeline of the first of these points."""


@dataclass
class Phase:
    """What one phase of the app's life was put through, and what came of it."""

    name: str
    points: int
    findings: list[LeakReport]
    lived: int = LIVES
    """How often the app has started."""

    @property
    def guilty(self) -> int:
        """At how many points something was left behind, or went wrong."""
        return sum(len(finding.points) for finding in self.findings)


@dataclass(frozen=True)
class Nothing:
    """A fault that is none."""

    repeat: float = 0

    def inject(self, task: "asyncio.Task[Any]", loop: asyncio.AbstractEventLoop) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class LifespanChecker:
    """How to examine an app."""

    make: Callable[[], App]
    """Gives the app, for each case anew if it has a factory."""
    memory: AcquisitionTracker
    point: InjectionPoint = InjectionPoint.LOOP_ITERATION
    path: str | None = None
    """What to ask the app for while it is stopped."""
    silent: bool = False
    """Whether to stop it while the servers do not answer any more."""
    limit: float = 10.0
    """Seconds that one case may take."""
    alive: Callable[[], object] = lambda: None
    """Called in each iteration of the event loop: an app that blocks it can be seen by that."""

    def phases(self) -> Iterator[Phase]:
        """Examine, phase by phase.

        Raises:
            UnusableError: it does not start, or does not answer, without a fault.
        """
        alive = self._alive()
        yield alive
        if alive.lived < LIVES:
            return  # it starts once only: there is nothing to compare a fault with
        yield self._swept("startup", _starting)
        yield self._swept("teardown", _stopping)
        if self.path is not None:
            yield self._swept("request", _asked(self.path))
        if self.silent:
            yield self._swept("silence", _once(_stopping), NetworkPartition())

    def _alive(self) -> Phase:
        started = 0

        async def live(app: App, case: Run) -> None:
            nonlocal started
            if case.at > LIVES:
                return
            life = lifespan_of(app)
            with case.armed():
                await life.__aenter__()
            started += 1
            await life.__aexit__(None, None, None)

        phase = self._swept("life", live, Nothing())
        if not started:
            raise UnusableError(f"it does not start even without a fault: {phase.findings[0].guilt[-1]}")
        phase.lived = started
        return phase

    def _swept(self, name: str, scenario: Scenario, fault: Fault = Cancel()) -> Phase:  # noqa: B008 - it cannot be changed
        stories: dict[int, RunTimeline] = {}

        async def run(case: Run) -> None:
            remember_tasks()
            story = stories[case.at] = RunTimeline()
            story.begin(case, self.memory, self.alive)
            app = self.make()
            story.kept.append(app)
            failure = await self._failure(scenario(app, case))
            fired = case.fired
            del app, case  # an error that is kept keeps what is in the frames that it has passed
            if failure is not None and fired:  # without a fault it was told of the first lives
                raise failure

        outcomes = list(sweep(run, point=self.point, fault=fault, expected_errors=FailedError))
        findings: dict[tuple[str, ...], LeakReport] = {}
        for outcome in outcomes:
            guilt = list(_guilt(outcome, fault))
            if guilt:
                place = _BEFORE if outcome.location.startswith("faultlab/") else outcome.location
                strike = "" if isinstance(fault, Nothing) else f"{_verb(fault)} {place}"
                finding = findings.setdefault(tuple(guilt), LeakReport(guilt, story=stories[outcome.at].lines(strike)))
                finding.points.append(outcome.at)
                finding.places += [place] if strike else []
        return Phase(name, len(outcomes), list(findings.values()))

    async def _failure(self, life: Coroutine[Any, Any, None]) -> "FailedError | None":
        """Run it to its end. What went wrong is told by a new error: the frames of the first would keep alive all that is in them."""
        bound = asyncio.timeout(self.limit)
        try:
            async with bound:
                await life
        except UnusableError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever an app raises
            return (
                UnendingError(f"it has not ended within {self.limit:g} s")
                if bound.expired()
                else FailedError(_told(error))
            )
        return None


class FailedError(Exception):
    """What went wrong, in one line."""


class UnendingError(FailedError):
    """It took longer than it may."""


async def _starting(app: App, case: Run) -> None:
    life = lifespan_of(app)
    with case.armed():
        await life.__aenter__()
    await life.__aexit__(None, None, None)


async def _stopping(app: App, case: Run) -> None:
    life = lifespan_of(app)
    await life.__aenter__()
    with case.armed():
        await life.__aexit__(None, None, None)


def _asked(path: str) -> Scenario:
    """A stop while it works on a request: what is asked is cancelled, and the teardown begins in the same instant, as in uvicorn."""

    async def run(app: App, case: Run) -> None:
        life = lifespan_of(app)
        state = await life.__aenter__()
        request = asyncio.create_task(get(app, path, state), name="request")
        try:
            with case.armed():
                await asyncio.wait({request})
        finally:
            request.cancel()
            await life.__aexit__(None, None, None)
            await asyncio.wait({request})
            error = None if request.cancelled() else request.exception()
        status = repr(error) if error else request.result()
        if status not in range(200, 400):
            raise UnusableError(f"GET {path} does not work even without a fault: {status}")

    return run


def _once(scenario: Scenario) -> Scenario:
    """At the first point only."""

    async def run(app: App, case: Run) -> None:
        if case.at == 1:
            await scenario(app, case)

    return run


def _guilt(outcome: Outcome, fault: Fault) -> Iterator[str]:
    left = [_steady(line) for line in outcome.leaked]
    held = [line for line in left if not line.startswith("ResourceWarning:")]  # which only says the same again
    for line, times in sorted(Counter(held or left).items()):
        yield line if times == 1 else f"{times} times {line}"
    if isinstance(outcome.error, UnendingError) or (
        outcome.error is not None and not isinstance(fault, NetworkPartition)
    ):
        yield _steady(str(outcome.error))  # without an answer, an app may well say that it did not stop in peace


def _told(error: Exception) -> str:
    """In one line."""
    return " ".join((str(error) if isinstance(error, LifespanFailedError) else repr(error)).split())


def _verb(fault: Fault) -> str:
    return "cancelled   at" if isinstance(fault, Cancel) else f"{fault}, at"


def _steady(line: str) -> str:
    """Without what differs from one run to the next, so that the same can be seen to be the same."""
    line = re.sub(r"0x[0-9a-f]+", "0x...", line)
    line = re.sub(r"\b(fd|raddr|laddr)=(\d+|\([^)]*\))", r"\1=...", line)
    line = re.sub(r"/tmp/tmp\w+", "/tmp/tmp...", line)  # noqa: S108 - it is no path
    line = re.sub(r"\bThreadPoolExecutor-\d+_\d+", "ThreadPoolExecutor-..._...", line)
    return re.sub(r"\b(Task-|Thread-|waitpid-|subprocess |asyncio_)\d+\b", r"\1...", line)
