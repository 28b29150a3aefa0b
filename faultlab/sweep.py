"""The sweep: inject a fault at the first point, at the second, at the third ... until no run reaches the point."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ._asyncio_internals import abandon_task, default_executor_threads, detach_default_executor
from .diagnostics import Diagnostics
from .faults import Cancel, Fault, with_expirable_timers
from .injection_points import InjectionPoint, PointCounter, instrument_loop
from .snapshot import ResourceSnapshot

SETTLE_TIMEOUT = 1.0  # time for callbacks and transports to finish; after that, what is still open has leaked
MIN_SETTLE_TIME = 0.002  # a closed transport reports its error to its tasks a moment later
SETTLE_INTERVAL = 0.002
MISSES_TO_STOP = 3  # the number of points varies a little, so that one run without an injection is not the end

Loop = type[asyncio.AbstractEventLoop]
Errors = type[BaseException] | tuple[type[BaseException], ...]


class UnexpectedCancellationError(Exception):
    """A run ended with `CancelledError`, although nothing had cancelled it."""


@dataclass
class Outcome:
    """The result of one run.

    Attributes:
        at: the number of the injection point, from 1; 0 without a fault.
        location: file, line and function at that point.
        activity: the run's own description of that moment (see `Run.armed`).
        leaked: what was open after the run and not before it, and errors that no task awaited; a line each.
        error: the expected error that the run raised, or None.
        cancelled: whether the run ended with `CancelledError`.
        duration: seconds from the injection to the end of the run; without a fault, of the whole run.
    """

    at: int
    location: str = ""
    activity: str = ""
    leaked: list[str] = field(default_factory=list)
    error: BaseException | None = None
    cancelled: bool = False
    duration: float = 0.0


class Run:
    """One run of the code under test. The fault is injected at the n-th point inside `armed()`."""

    def __init__(self, at: int, fault: Fault | None, counter: PointCounter, loop: asyncio.AbstractEventLoop) -> None:
        self.at = at
        self.activity = ""
        self.injected_at = 0.0  # by the monotonic clock; the first injection, if the fault repeats
        self.injection_error: BaseException | None = None  # raised by the fault itself, or by `describe`
        self._fault = fault
        self._counter = counter
        self._loop = loop

    @property
    def cancels(self) -> bool:
        """True if the fault is a cancellation. The code under test may swallow it: see `Outcome.cancelled`."""
        return isinstance(self._fault, Cancel)

    @property
    def fired(self) -> bool:
        """Whether the fault was injected."""
        return self._counter.fired > 0

    @contextmanager
    def armed(self, describe: Callable[[], str] = str) -> Iterator[None]:
        """Allow the injection inside the block. `describe()` is called at that moment; its result is the `activity`."""
        task = asyncio.current_task()
        if task is None or self._fault is None:
            raise RuntimeError("a fault is injected into a task, by `sweep`")
        fault = self._fault

        def inject() -> None:
            # An error here must not become one of the task whose step this is: the code under test could swallow it.
            try:
                self.injected_at = self.injected_at or time.monotonic()
                self.activity = self.activity or describe()
                fault.inject(task, self._loop)
            except BaseException as error:  # noqa: BLE001 - the sweep raises it when the run has ended
                self.injection_error = error
                self._counter.disarm()

        self._counter.arm(self.at, fault.repeat, inject)
        try:
            yield
        finally:
            self._counter.disarm()


RunFunction = Callable[[Run], Awaitable[Any]]


async def _nothing(_run: Run) -> None:
    pass


def sweep(
    function: RunFunction,
    *,
    point: InjectionPoint = InjectionPoint.LOOP_ITERATION,
    fault: Fault = Cancel(),  # noqa: B008 - it is immutable
    loop: Loop = asyncio.SelectorEventLoop,
    follow_up: RunFunction = _nothing,
    expected_errors: Errors = (),
    step: int = 1,
) -> Iterator[Outcome]:
    """Call `function` again and again, with the fault `step` points later each time.

    The sweep ends after `MISSES_TO_STOP` runs in a row that end before their point. Each run has an event loop of its own. The outcome of a run is yielded before the next one begins.

    Args:
        function: runs the code under test, with the part into which the fault is injected inside `run.armed()`.
        point: the kind of point that is counted.
        fault: what is injected.
        loop: the class of the event loop.
        follow_up: called after a run with an injection, in the same loop: a restart, for example. Its errors are raised,
            its leaks are added to the outcome.
        expected_errors: the errors that the code under test raises because of the fault. They become `Outcome.error`.
            An `AssertionError` is never expected, nor a group that contains one.
        step: 1 injects at every point, beginning with the first one, and 3 at every third one.

    Raises:
        BaseException: any other error of `function`, at once, with its traceback and a note of the point: an assertion
            inside a run fails the sweep.
        UnexpectedCancellationError: a run ended with `CancelledError`, and the fault is not a cancellation.
    """
    setup = _Setup(function, follow_up, fault, point, loop, expected_errors)
    at, misses = 1 - step, 0
    with _objects_frozen(loop):
        while misses < MISSES_TO_STOP:
            at += step
            outcome, fired = _run_isolated(setup, at)
            misses = 0 if fired else misses + 1
            if fired:
                yield outcome


def run_once(
    function: Callable[[], Awaitable[Any]],
    *,
    loop: Loop = asyncio.SelectorEventLoop,
    expected_errors: Errors = (),
) -> Outcome:
    """Call `function` once, without a fault, in an event loop of its own, with expirable timers; see `sweep`.

    Each call collects garbage twice. Before many calls, `gc.freeze()` makes that faster.
    """

    async def run(_run: Run) -> None:
        await function()

    setup = _Setup(run, _nothing, None, InjectionPoint.TASK_STEP, loop, expected_errors)
    _open_loop_resources(loop)
    outcome, _ = _run_isolated(setup, at=0)
    return outcome


@dataclass(frozen=True)
class _Setup:
    """The arguments of a sweep: the same for each of its runs."""

    function: RunFunction
    follow_up: RunFunction
    fault: Fault | None
    point: InjectionPoint
    loop: Loop
    expected_errors: Errors


@contextmanager
def _objects_frozen(loop: Loop) -> Iterator[None]:
    """Exclude the objects that exist now from garbage collection: they are no leaks, and each run collects twice."""
    _open_loop_resources(loop)
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _run_isolated(setup: _Setup, at: int) -> tuple[Outcome, bool]:
    """Run once in an event loop of its own. Return the outcome, and whether the fault was injected."""
    before = ResourceSnapshot.take()
    diagnostics = Diagnostics()
    counter = PointCounter()
    with diagnostics.capture():
        with asyncio.Runner(loop_factory=with_expirable_timers(setup.loop)) as runner:
            loop = runner.get_loop()
            diagnostics.attach(loop)
            run = Run(at, setup.fault, counter, loop)
            try:
                outcome = runner.run(_run_and_settle(setup, run, counter))
            finally:
                runner.run(_cancel_leftovers())
        del loop, run  # collect what they refer to now: what was not closed reports itself to these diagnostics
        gc.collect()
    outcome.leaked += _leaked_after_close(before, outcome.leaked)
    outcome.leaked += diagnostics
    return outcome, counter.fired > 0


def _leaked_after_close(before: ResourceSnapshot, known: list[str]) -> list[str]:
    """Return what is still open without the event loop, and not known yet. A thread that the loop has stopped may take a moment to end."""
    deadline = time.monotonic() + SETTLE_TIMEOUT
    while True:
        leaked = [line for line in ResourceSnapshot.take().leaked_since(before) if line not in known]
        if not leaked or time.monotonic() >= deadline:
            return leaked
        time.sleep(SETTLE_INTERVAL)


async def _run_and_settle(setup: _Setup, run: Run, counter: PointCounter) -> Outcome:
    loop = asyncio.get_running_loop()
    await _warm_up()
    before = ResourceSnapshot.take()
    started = time.monotonic()
    with instrument_loop(loop, setup.point, counter):
        task = asyncio.ensure_future(setup.function(run))
        await asyncio.wait({task})
    outcome = Outcome(run.at, counter.location, run.activity, duration=time.monotonic() - (run.injected_at or started))
    with _noted(run, counter.location):
        _judge(task, run, outcome, setup.expected_errors)
        del task
        if run.fired:
            await setup.follow_up(run)
    await asyncio.sleep(MIN_SETTLE_TIME)
    gc.collect()
    deadline = loop.time() + SETTLE_TIMEOUT
    while (leaked := ResourceSnapshot.take().leaked_since(before)) and loop.time() < deadline:  # noqa: ASYNC110 - no event to wait for
        await asyncio.sleep(SETTLE_INTERVAL)
    outcome.leaked = leaked
    return outcome


def _judge(task: "asyncio.Future[Any]", run: Run, outcome: Outcome, expected_errors: Errors) -> None:
    """Store how the run ended, or raise what must not be mistaken for an effect of the fault."""
    if run.injection_error is not None:
        raise run.injection_error
    if task.cancelled():
        if not (run.fired and run.cancels):
            raise UnexpectedCancellationError("the run was cancelled, but not by a fault")
        outcome.cancelled = True
        return
    error = task.exception()
    if error is None:
        return
    expected = isinstance(error, expected_errors) and not _contains_assertion(error)
    if not expected or not (run.fired or run.at == 0):
        raise error
    error.__traceback__ = None  # its frames would keep the objects of the run alive
    outcome.error = error


def _contains_assertion(error: BaseException) -> bool:
    """Return whether the error is an `AssertionError`, or a group that contains one."""
    if isinstance(error, BaseExceptionGroup):
        return any(_contains_assertion(inner) for inner in error.exceptions)
    return isinstance(error, AssertionError)


@contextmanager
def _noted(run: Run, location: str) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if run.fired:
            error.add_note(f"the fault was injected at point {run.at}, {location}")
        raise


async def _cancel_leftovers() -> None:
    """Cancel the remaining tasks, and unregister those that do not end: the runner would wait for them forever."""
    leftovers = asyncio.all_tasks() - {asyncio.current_task()}
    for task in leftovers:
        task.cancel()
    if leftovers:
        _, pending = await asyncio.wait(leftovers, timeout=SETTLE_TIMEOUT)
        for task in pending:
            abandon_task(task)  # the outcome lists it already
    _detach_busy_executor(asyncio.get_running_loop())


def _detach_busy_executor(loop: asyncio.AbstractEventLoop) -> None:
    """Remove the loop's executor if one of its threads is busy: the runner would wait for that thread forever."""
    if ResourceSnapshot.take().threads & default_executor_threads(loop):
        detach_default_executor(loop)


def _open_loop_resources(loop: Loop) -> None:
    """Open what the first event loop of this class opens for the whole process: uvloop keeps two pipes."""
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(_warm_up())


async def _warm_up() -> None:
    """Open what the event loop opens with its first connection: uvloop keeps a descriptor in reserve."""
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    server.close()
    await server.wait_closed()
