"""Every point in time: a cancellation at the first iteration of the event loop, the second, the third ... until none is left.

Suspensions of the caller alone are not enough: a library that connects in a task of its own hides all of its steps behind
one of them. The loop's iterations are all there is.
"""

import asyncio
import gc
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from faultlab.ledger import Ledger

SETTLE_WITHIN = 1.0
"""Seconds for callbacks and closing transports to get to their end, before what is still there counts as left behind."""


class TickingLoop(asyncio.SelectorEventLoop):
    """An event loop that counts its iterations, and does something before some of them."""

    tick = 0
    act_from = act_until = math.inf
    act: Callable[[], object]

    def _run_once(self) -> None:
        self.tick += 1
        if self.act_from <= self.tick <= self.act_until:
            self.act()
        super()._run_once()  # type: ignore[misc]  # the one place where all of asyncio's iterations pass


class Case:
    """One run: what is inside `armed()` is cancelled at the n-th iteration, if it takes that long."""

    def __init__(self, at: int, again: float, loop: TickingLoop) -> None:
        self.at = at
        self.fired = False
        self._again = again
        self._loop = loop

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Within the block, the cancellation may come."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("only a task can be cancelled")

        def cancel() -> None:
            self.fired = True
            task.cancel()

        self._loop.act = cancel
        self._loop.act_from = self._loop.tick + self.at
        self._loop.act_until = self._loop.act_from + self._again
        try:
            yield
        finally:
            self._loop.act_from = math.inf


@dataclass
class Outcome:
    """What one run left behind."""

    at: int
    left: list[str] = field(default_factory=list)
    """What was held afterwards and not before, and what the event loop complained of."""
    swallowed: bool = False
    """The cancellation was injected and did not arrive."""


def cancel_at_every_tick(run: Callable[[Case], Awaitable[Any]], *, again: float = 0) -> list[Outcome]:
    """Run again and again, with a cancellation one iteration later each time, until it does not fire any more.

    Each run has an event loop of its own.

    Args:
        run: puts what shall be cancelled into `case.armed()`.
        again: at how many of the iterations that follow it is cancelled again, as long as it is in there: 1 is somebody who
            asks twice; `math.inf` is anyio's cancel scopes, which insist at every await.
    """
    outcomes: list[Outcome] = []
    while True:
        before = Ledger.now()
        with asyncio.Runner(loop_factory=TickingLoop) as runner:
            outcome, fired = runner.run(_one(run, len(outcomes) + 1, again, runner.get_loop()))
        outcome.left += [line for line in Ledger.now().added_since(before) if line not in outcome.left]
        if not fired:
            return outcomes
        outcomes.append(outcome)


async def _one(
    run: Callable[[Case], Awaitable[Any]], at: int, again: float, loop: asyncio.AbstractEventLoop
) -> tuple[Outcome, bool]:
    if not isinstance(loop, TickingLoop):
        raise TypeError("this needs a loop that counts")
    complaints: list[str] = []
    loop.set_exception_handler(lambda _loop, context: complaints.append(str(context["message"])))
    case, outcome = Case(at, again, loop), Outcome(at)
    before = Ledger.now()
    task = asyncio.ensure_future(run(case))
    await asyncio.wait({task})
    outcome.swallowed = case.fired and not task.cancelled()
    if not task.cancelled() and task.exception() is not None and not case.fired:
        task.result()  # the run itself is broken
    del task
    gc.collect()
    deadline = loop.time() + SETTLE_WITHIN
    while (left := Ledger.now().added_since(before)) and loop.time() < deadline:  # noqa: ASYNC110 - nothing tells us
        await asyncio.sleep(0.002)
    outcome.left = left + complaints
    return outcome, case.fired
