"""What can strike at a point in time: a cancellation, a deadline that expires right there, or whatever one calls."""

import asyncio
import math
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


class Fault(Protocol):
    """Something that strikes."""

    @property
    def repeat(self) -> float:
        """At how many of the points that follow it strikes again."""
        ...

    def inject(self, task: "asyncio.Task[Any]", loop: asyncio.AbstractEventLoop) -> None: ...


@dataclass(frozen=True)
class Cancel:
    """The task is cancelled. `again` = 1 is somebody who asks twice, infinity is anyio's scopes, which insist at every await."""

    repeat: float = 0

    def inject(self, task: "asyncio.Task[Any]", loop: asyncio.AbstractEventLoop) -> None:
        del loop
        task.cancel()

    def __str__(self) -> str:
        times = {0: "once", 1: "twice", math.inf: "at every later point"}
        return f"cancelled {times.get(self.repeat, f'{self.repeat + 1:.0f} times')}"


@dataclass(frozen=True)
class ExpireDeadlines:
    """So many seconds pass in an instant: whatever deadline of the event loop lies within them expires."""

    seconds: float
    repeat: float = 0

    def inject(self, task: "asyncio.Task[Any]", loop: asyncio.AbstractEventLoop) -> None:
        del task
        if not isinstance(loop, AdjustableClock):
            raise TypeError("this needs a loop that can leap")
        loop.advance(self.seconds)

    def __str__(self) -> str:
        return "deadline expired"


@dataclass(frozen=True)
class Call:
    """Something is called, and nothing is done to the task: what a second stop signal does, for instance."""

    what: Callable[[], object]
    name: str
    """What is said of it."""
    repeat: float = 0

    def inject(self, task: "asyncio.Task[Any]", loop: asyncio.AbstractEventLoop) -> None:
        del task, loop
        self.what()

    def __str__(self) -> str:
        return self.name


@runtime_checkable
class AdjustableClock(Protocol):
    """What an event loop can do that was made by `leaping`."""

    def advance(self, seconds: float) -> None: ...


class _Timer:
    """A callback that is called at most once: when its time has come, or when that is leapt over."""

    def __init__(self, when: float, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.when = when
        self.over = False
        self._callback = callback
        self._args = args

    def __call__(self) -> None:
        if not self.over:
            self.over = True
            self._callback(*self._args)


def with_adjustable_clock(loop_class: type[asyncio.AbstractEventLoop]) -> type[asyncio.AbstractEventLoop]:
    """Make a class of event loops like `loop_class` that also have `leap`."""

    class Leaping(loop_class):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__()
            self._timers: list[tuple[_Timer, asyncio.TimerHandle, Context | None]] = []

        def call_later(
            self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
        ) -> asyncio.TimerHandle:
            timer = callback if isinstance(callback, _Timer) else _Timer(self.time() + delay, callback, args)
            return self._remember(timer, super().call_later(delay, timer, context=context), context)

        def call_at(
            self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
        ) -> asyncio.TimerHandle:
            timer = callback if isinstance(callback, _Timer) else _Timer(when, callback, args)
            return self._remember(timer, super().call_at(when, timer, context=context), context)

        def _remember(self, timer: _Timer, handle: asyncio.TimerHandle, context: Context | None) -> asyncio.TimerHandle:
            if not self._timers or self._timers[-1][0] is not timer:  # one of the two methods calls the other
                self._timers.append((timer, handle, context))
            return handle

        def advance(self, seconds: float) -> None:
            until = self.time() + seconds
            due = [one for one in self._timers if one[0].when <= until]
            self._timers = [one for one in self._timers if one[0].when > until]
            for timer, handle, context in sorted(due, key=lambda one: one[0].when):
                self.call_soon(_unless_cancelled, timer, handle, context=context)

    return Leaping


def _unless_cancelled(timer: _Timer, handle: asyncio.TimerHandle) -> None:
    if not handle.cancelled():
        timer()
