"""The points in time at which a fault can strike: iterations of the event loop, and steps of tasks.

Suspensions of the caller alone are not enough: a library that connects in a task of its own hides all of its steps behind
one of them.
"""

import asyncio
import gc
import math
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any

_ASYNCIO = str(Path(asyncio.__file__).parent)
_FOLDER = Path.cwd()
"""The current folder: the app may leave it, or remove it."""


class InjectionPoint(StrEnum):
    """What is counted."""

    LOOP_ITERATION = "tick"
    """Each iteration of the event loop. Only loops that are written in Python have them: asyncio's."""
    TASK_STEP = "step"
    """Each step of every task, on any event loop."""


class PointCounter:
    """Counts the points that pass, and strikes at the n-th one after it was armed."""

    def __init__(self) -> None:
        self.fired = 0
        """How often it has struck."""
        self.place = ""
        """Where it struck first: file, line and function of the task that ran last, or is to run."""
        self._passed = 0
        self._first = self._last = math.inf
        self._strike: Callable[[], object] = lambda: None

    def arm(self, at: int, repeat: float, strike: Callable[[], object]) -> None:
        """Strike at the point `at` from now, the next being 1, and at the `repeat` ones that follow it."""
        self._first = self._passed + at
        self._last = self._first + repeat
        self._strike = strike

    def disarm(self) -> None:
        """Strike no more; and hold nothing of what was to be struck, that it can be collected."""
        self._first = math.inf
        self._strike = lambda: None

    def passes(self, running: object) -> None:
        """One more point, at which the coroutine `running` is about to run, or has run."""
        self._passed += 1
        if self._first <= self._passed <= self._last:
            self.fired += 1
            self.place = self.place or where_it_stands(running)
            self._strike()


class Stepped(Coroutine[Any, Any, Any]):
    """A coroutine that tells of each of its steps. In all else it is the one that it is made of."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], on_step: Callable[[object], None]) -> None:
        self._coroutine = coroutine
        self._on_step = on_step

    def send(self, value: Any, /) -> Any:
        self._on_step(self._coroutine)
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        self._on_step(self._coroutine)
        try:
            return self._coroutine.throw(*error)
        finally:
            del error  # its traceback is about to hold this frame: a circle that keeps all of the frames alive

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coroutine.__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)

    def __repr__(self) -> str:
        return repr(self._coroutine)


@contextmanager
def counted(loop: asyncio.AbstractEventLoop, point: InjectionPoint, counter: PointCounter) -> Iterator[None]:
    """Within the block, let `counter` count: the steps of all tasks that are made in it, or the iterations of the loop.

    Raises:
        TypeError: the loop has no iterations that one could count.
    """
    counting = True
    ran: object = None

    def on_step(coroutine: object) -> None:
        nonlocal ran
        if counting:
            ran = coroutine
            if point is InjectionPoint.TASK_STEP:
                counter.passes(coroutine)

    def make_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> "asyncio.Task[Any]":
        return asyncio.Task(Stepped(coroutine, on_step), loop=loop, **options)

    loop.set_task_factory(make_task)
    if point is InjectionPoint.LOOP_ITERATION:
        iterate: Callable[[], None] | None = getattr(loop, "_run_once", None)
        if iterate is None:
            raise TypeError(f"{type(loop).__name__} has no iterations that could be counted: count steps")

        def tick() -> None:
            if counting:
                counter.passes(ran)
            iterate()

        vars(loop)["_run_once"] = tick  # the one method through which all of asyncio's iterations pass
    try:
        yield
    finally:
        counting, ran = False, None  # others may have put something over both by now, so both stay where they are


def where_it_stands(awaiting: object) -> str:
    """Where a coroutine stands: file, line and function of the innermost frame that is not asyncio's own."""
    frame: FrameType | None = None
    inner: object | None = awaiting
    while inner is not None:
        innermost = _frame(inner)
        if innermost is not None and not (frame and innermost.f_code.co_filename.startswith(_ASYNCIO)):
            frame = innermost
        inner = _awaited(inner)
    if frame is None:
        return "the end of a task" if awaiting is not None else "the event loop"
    return f"{_short(frame.f_code.co_filename)}:{frame.f_lineno} {frame.f_code.co_qualname}"


def _frame(awaiting: object) -> FrameType | None:
    for name in ("cr_frame", "gi_frame", "ag_frame"):
        frame = getattr(awaiting, name, None)
        if isinstance(frame, FrameType):
            return frame
    return None


def _awaited(awaiting: object) -> object | None:
    for name in ("cr_await", "gi_yieldfrom", "ag_await"):
        if hasattr(awaiting, name):
            return getattr(awaiting, name) or None
    if type(awaiting).__name__ in {"async_generator_asend", "async_generator_athrow", "coroutine_wrapper"}:
        # These say nothing of what is behind them.
        kinds = (CoroutineType, GeneratorType, AsyncGeneratorType)
        return next((one for one in gc.get_referents(awaiting) if isinstance(one, kinds)), None)
    return None


def _short(filename: str) -> str:
    """The path within the environment or the current folder: what is before that says nothing."""
    path = Path(filename)
    for folder in ("site-packages", "dist-packages"):
        if folder in path.parts:
            return str(Path(*path.parts[path.parts.index(folder) + 1 :]))
    return str(path.relative_to(_FOLDER)) if path.is_relative_to(_FOLDER) else "/".join(path.parts[-2:])
