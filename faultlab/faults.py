"""The faults: a cancellation, an expired deadline, or any function."""

import asyncio
import math
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


class Fault(Protocol):
    """Something that can be injected into a running task."""

    @property
    def repeat(self) -> float:
        """The number of further points at which the fault is injected again; infinity for all of them."""
        ...

    def inject(self, task: "asyncio.Task[Any]", loop: asyncio.AbstractEventLoop) -> None: ...


@dataclass(frozen=True)
class Cancel:
    """Cancels the task. `repeat=1` cancels it twice; `repeat=math.inf` at every await, as anyio's cancel scopes do."""

    repeat: float = 0

    def inject(self, task: "asyncio.Task[Any]", loop: asyncio.AbstractEventLoop) -> None:
        del loop
        task.cancel()

    def __str__(self) -> str:
        times = {0: "once", 1: "twice", math.inf: "at every later point"}
        return f"cancelled {times.get(self.repeat, f'{self.repeat + 1:.0f} times')}"


@dataclass(frozen=True)
class ExpireDeadlines:
    """Advances the loop's clock by `seconds`, so that every timer due by then fires."""

    seconds: float
    repeat: float = 0

    def inject(self, task: "asyncio.Task[Any]", loop: asyncio.AbstractEventLoop) -> None:
        del task
        if not isinstance(loop, AdjustableClock):
            raise TypeError("the event loop has no adjustable clock: see `with_adjustable_clock`")
        loop.advance(self.seconds)

    def __str__(self) -> str:
        return "deadline expired"


@dataclass(frozen=True)
class Call:
    """Calls a function and leaves the task alone: a second stop signal, for example.

    Attributes:
        function: what is called.
        name: the description of the fault in reports.
        repeat: see `Fault`.
    """

    function: Callable[[], object]
    name: str
    repeat: float = 0

    def inject(self, task: "asyncio.Task[Any]", loop: asyncio.AbstractEventLoop) -> None:
        del task, loop
        self.function()

    def __str__(self) -> str:
        return self.name


@runtime_checkable
class AdjustableClock(Protocol):
    """An event loop made by `with_adjustable_clock`."""

    def advance(self, seconds: float) -> None:
        """Schedule every timer that is due within the next `seconds` to fire now, in the order of their times."""


class _Timer:
    """A callback that is called at most once: when it is due, or earlier by `advance`."""

    def __init__(self, when: float, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.when = when
        self.fired = False
        self._callback = callback
        self._args = args

    def __call__(self) -> None:
        if not self.fired:
            self.fired = True
            self._callback(*self._args)


def with_adjustable_clock(loop_class: type[asyncio.AbstractEventLoop]) -> type[asyncio.AbstractEventLoop]:
    """Return a subclass of the event loop `loop_class` that also has the method `advance`."""

    class AdjustableLoop(loop_class):  # type: ignore[misc, valid-type]  # the base class is a parameter
        def __init__(self) -> None:
            super().__init__()
            self._timers: list[tuple[_Timer, asyncio.TimerHandle, Context | None]] = []

        def call_later(
            self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
        ) -> asyncio.TimerHandle:
            timer = callback if isinstance(callback, _Timer) else _Timer(self.time() + delay, callback, args)
            return self._register(timer, super().call_later(delay, timer, context=context), context)

        def call_at(
            self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
        ) -> asyncio.TimerHandle:
            timer = callback if isinstance(callback, _Timer) else _Timer(when, callback, args)
            return self._register(timer, super().call_at(when, timer, context=context), context)

        def _register(self, timer: _Timer, handle: asyncio.TimerHandle, context: Context | None) -> asyncio.TimerHandle:
            if not self._timers or self._timers[-1][0] is not timer:  # one of the two methods calls the other
                self._timers.append((timer, handle, context))
            return handle

        def advance(self, seconds: float) -> None:
            now = self.time() + seconds
            due = [entry for entry in self._timers if entry[0].when <= now]
            self._timers = [entry for entry in self._timers if entry[0].when > now]
            for timer, handle, context in sorted(due, key=lambda entry: entry[0].when):
                self.call_soon(_fire_unless_cancelled, timer, handle, context=context)

    return AdjustableLoop


def _fire_unless_cancelled(timer: _Timer, handle: asyncio.TimerHandle) -> None:
    if not handle.cancelled():
        timer()
