"""Injection points: iterations of the event loop, and steps of tasks.

Counting only the suspensions of the caller would not be enough: a library that connects in a task of its own hides all
of its steps behind one of them.
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

from ._asyncio_internals import before_each_iteration

_ASYNCIO = str(Path(asyncio.__file__).parent)
_FOLDER = Path.cwd()  # read at import: the app may change the current folder or remove it


class InjectionPoint(StrEnum):
    """The kinds of points that can be counted."""

    LOOP_ITERATION = "tick"  # each iteration of the event loop; asyncio's own loops only
    TASK_STEP = "step"  # each step of every task, on any event loop


class PointCounter:
    """Counts the points that pass and injects at the n-th one after it was armed.

    Attributes:
        fired: the number of injections.
        location: where the first one happened: file, line and function of the task that ran last or runs next.
    """

    def __init__(self) -> None:
        self.fired = 0
        self.location = ""
        self._passed = 0
        self._first = self._last = math.inf
        self._inject: Callable[[], object] = lambda: None

    def arm(self, at: int, repeat: float, inject: Callable[[], object]) -> None:
        """Call `inject` at the point `at` from now, the next one being 1, and at the `repeat` points after it."""
        self._first = self._passed + at
        self._last = self._first + repeat
        self._inject = inject

    def disarm(self) -> None:
        """Stop injecting, and drop the reference to `inject` so that its objects can be collected."""
        self._first = math.inf
        self._inject = lambda: None

    def advance(self, coroutine: object) -> None:
        """Count one more point, at which `coroutine` has run or is about to run."""
        self._passed += 1
        if self._first <= self._passed <= self._last:
            self.fired += 1
            self.location = self.location or suspended_at(coroutine)
            self._inject()


class InstrumentedCoroutine(Coroutine[Any, Any, Any]):
    """Wraps a coroutine and calls `on_step` before each of its steps."""

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
            del error  # its traceback will refer to this frame: the cycle would keep all frames alive

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coroutine.__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)

    def __repr__(self) -> str:
        return repr(self._coroutine)


@contextmanager
def instrument_loop(loop: asyncio.AbstractEventLoop, point: InjectionPoint, counter: PointCounter) -> Iterator[None]:
    """Advance `counter` inside the block: at each iteration of the loop, or at each step of the tasks created in it.

    Raises:
        TypeError: the iterations of this loop cannot be counted.
    """
    counting = True
    last_run: object = None

    def on_step(coroutine: object) -> None:
        nonlocal last_run
        if counting:
            last_run = coroutine
            if point is InjectionPoint.TASK_STEP:
                counter.advance(coroutine)

    def on_iteration() -> None:
        if counting:
            counter.advance(last_run)

    def make_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> "asyncio.Task[Any]":
        return asyncio.Task(InstrumentedCoroutine(coroutine, on_step), loop=loop, **options)

    loop.set_task_factory(make_task)
    if point is InjectionPoint.LOOP_ITERATION:
        before_each_iteration(loop, on_iteration)
    try:
        yield
    finally:
        # Both hooks stay in place, disabled: the app may have wrapped them.
        counting, last_run = False, None


def suspended_at(coroutine: object) -> str:
    """Return where a coroutine is suspended: file, line and function of the innermost frame outside asyncio."""
    frame: FrameType | None = None
    inner: object | None = coroutine
    while inner is not None:
        innermost = _frame(inner)
        if innermost is not None and not (frame and innermost.f_code.co_filename.startswith(_ASYNCIO)):
            frame = innermost
        inner = _awaited(inner)
    if frame is None:
        return "the end of a task" if coroutine is not None else "the event loop"
    return f"{short_path(frame.f_code.co_filename)}:{frame.f_lineno} {frame.f_code.co_qualname}"


def short_path(filename: str) -> str:
    """Return the path within the installed packages or the current folder, or else its last two parts."""
    path = Path(filename)
    for folder in ("site-packages", "dist-packages"):
        if folder in path.parts:
            return str(Path(*path.parts[path.parts.index(folder) + 1 :]))
    return str(path.relative_to(_FOLDER)) if path.is_relative_to(_FOLDER) else "/".join(path.parts[-2:])


def _frame(awaitable: object) -> FrameType | None:
    for name in ("cr_frame", "gi_frame", "ag_frame"):
        frame = getattr(awaitable, name, None)
        if isinstance(frame, FrameType):
            return frame
    return None


def _awaited(awaitable: object) -> object | None:
    for name in ("cr_await", "gi_yieldfrom", "ag_await"):
        if hasattr(awaitable, name):
            return getattr(awaitable, name) or None
    if type(awaitable).__name__ in {"async_generator_asend", "async_generator_athrow", "coroutine_wrapper"}:
        # These do not expose what they wrap.
        wrapped = (CoroutineType, GeneratorType, AsyncGeneratorType)
        return next((referent for referent in gc.get_referents(awaitable) if isinstance(referent, wrapped)), None)
    return None
