"""The sweep: a fault at the first point in time, the second, the third ... until it strikes no more."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from faultlab.complaints import Complaints
from faultlab.faults import Cancel, Fault, leaping
from faultlab.ledger import Ledger
from faultlab.points import Point, PointCounter, counted

SETTLE_WITHIN = 1.0
"""Seconds for callbacks and closing transports to get to their end, before what is still there counts as left behind."""

SETTLE_AT_LEAST = 0.002
"""Seconds for transports that were closed to tell those who used them: only then is there an error that nobody retrieves."""

MISSES = 3
"""So many runs in a row without a strike end the sweep: no two runs have quite the same number of points."""


@dataclass
class Outcome:
    """What one run left behind."""

    at: int
    """Which point it was, from 1."""
    place: str
    """Where: file, line and function."""
    during: str = ""
    """What the run itself says of that moment, if it was asked."""
    left: list[str] = field(default_factory=list)
    """What was held afterwards and not before, and what was complained of."""
    swallowed: bool = False
    """It was cancelled, and did not end as what is cancelled ends."""
    error: BaseException | None = None
    """What the run raised, if that was no cancellation."""
    took: float = 0.0
    """Seconds from the strike to the end of the run."""


class Case:
    """One run. What is inside `armed()` is struck at the n-th point, if it takes that long."""

    def __init__(self, at: int, fault: Fault, counter: PointCounter, loop: asyncio.AbstractEventLoop) -> None:
        self.at = at
        self.during = ""
        self.struck_at = 0.0
        """When the fault struck first, by the monotonic clock."""
        self._fault = fault
        self._counter = counter
        self._loop = loop

    @property
    def cancels(self) -> bool:
        """Whether the fault is one that the run must end of, as whatever is cancelled does."""
        return isinstance(self._fault, Cancel)

    @property
    def fired(self) -> bool:
        """Whether the fault has struck."""
        return self._counter.fired > 0

    @contextmanager
    def armed(self, during: Callable[[], str] = str) -> Iterator[None]:
        """Within the block, the fault may strike. When it does, `during()` is asked what was going on."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("only a task can be struck")

        def strike() -> None:
            self.struck_at = self.struck_at or time.monotonic()
            self.during = self.during or during()
            self._fault.strike(task, self._loop)

        self._counter.arm(self.at, self._fault.again, strike)
        try:
            yield
        finally:
            self._counter.disarm()


Run = Callable[[Case], Awaitable[Any]]


async def _nothing(_case: Case) -> None:
    pass


def sweep(
    run: Run,
    *,
    point: Point = Point.TICK,
    fault: Fault = Cancel(),  # noqa: B008 - it cannot be changed
    loop: type[asyncio.AbstractEventLoop] = asyncio.SelectorEventLoop,
    then: Run = _nothing,
) -> list[Outcome]:
    """Run again and again, with the fault one point later each time, until it strikes no more.

    Each run has an event loop of its own.

    Args:
        run: puts what shall be struck into `case.armed()`. What it raises although nothing struck is raised from here.
        point: which points in time there are.
        fault: what strikes.
        loop: the class of the event loop.
        then: follows at once, in the same event loop, where the fault has struck: a restart, say. What it raises is raised from
            here, and what it leaves behind is the case's.
    """
    outcomes: list[Outcome] = []
    at = misses = 0
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(_warm_up())
    gc.collect()
    gc.freeze()  # what is there now is no leak, and looking at it again and again takes as long as all the rest
    try:
        while misses < MISSES:
            at += 1
            outcome = _one(run, at, point, fault, loop, then=then)
            misses = misses + 1 if outcome is None else 0
            if outcome is not None:
                outcomes.append(outcome)
    finally:
        gc.unfreeze()
    return outcomes


def _one(
    run: Run, at: int, point: Point, fault: Fault, loop_class: type[asyncio.AbstractEventLoop], *, then: Run
) -> Outcome | None:
    before = Ledger.now()
    complaints = Complaints()
    counter = PointCounter()
    with complaints.collected():
        with asyncio.Runner(loop_factory=leaping(loop_class)) as runner:
            loop = runner.get_loop()
            complaints.listen(loop)
            try:
                outcome = runner.run(_settled(run, then, Case(at, fault, counter, loop), point, counter))
            finally:
                runner.run(_end_what_is_left())
        del loop  # and all that it holds, so that what nobody closed is complained of here and not in the next run
        gc.collect()
    if not counter.fired:
        return None
    outcome.place = counter.place
    outcome.left += [line for line in Ledger.now().added_since(before) if line not in outcome.left]
    outcome.left += complaints
    return outcome


async def _settled(run: Run, then: Run, case: Case, point: Point, counter: PointCounter) -> Outcome:
    loop = asyncio.get_running_loop()
    outcome = Outcome(case.at, "")
    await _warm_up()
    before = Ledger.now()
    with counted(loop, point, counter):
        task = asyncio.ensure_future(run(case))
        await asyncio.wait({task})
    outcome.took = time.monotonic() - case.struck_at
    if not task.cancelled():
        outcome.error = task.exception()
        if not case.fired:
            task.result()  # the run itself is broken
        if outcome.error is not None:
            outcome.error.__traceback__ = None  # its frames would keep alive all that is in them
    outcome.during = case.during
    outcome.swallowed = case.fired and case.cancels and not task.cancelled()
    del task
    if case.fired:
        await _follow(then, case, counter.place)
    await asyncio.sleep(SETTLE_AT_LEAST)
    gc.collect()
    deadline = loop.time() + SETTLE_WITHIN
    while (left := Ledger.now().added_since(before)) and loop.time() < deadline:  # noqa: ASYNC110 - nothing tells us
        await asyncio.sleep(0.002)
    outcome.left = left
    return outcome


async def _follow(then: Run, case: Case, place: str) -> None:
    try:
        await then(case)
    except Exception as error:
        error.add_note(f"after the fault had struck at point {case.at}, {place}")
        raise


async def _end_what_is_left() -> None:
    """Cancel the tasks that are left, and forget those that do not end of it: the runner would wait for them for ever."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        _, pending = await asyncio.wait(left, timeout=SETTLE_WITHIN)
        for task in pending:
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - it was named already
            asyncio.tasks._unregister_task(task)  # noqa: SLF001 - no public way to keep the runner from it
    _give_up_busy_executor(asyncio.get_running_loop())


def _give_up_busy_executor(loop: asyncio.AbstractEventLoop) -> None:
    """Let the loop forget its executor if a thread of that is still busy: the runner would wait for it, however long."""
    executor = getattr(loop, "_default_executor", None)
    if executor is not None and Ledger.now().threads & executor._threads:  # noqa: SLF001
        executor.shutdown(wait=False, cancel_futures=True)
        vars(loop)["_default_executor"] = None


async def _warm_up() -> None:
    """Let the event loop open what it opens for itself with its first connection: uvloop keeps a descriptor in reserve."""
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    server.close()
    await server.wait_closed()
