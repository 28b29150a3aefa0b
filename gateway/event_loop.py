"""The lag of the event loop: how late it runs what is due, because other work holds it.

A held loop makes healthy backends look slow: their responses wait in the sockets while the deadlines pass.
"""

import asyncio
from collections import deque
from time import monotonic
from typing import Self

INTERVAL = 0.05  # between two measurements
HISTORY = 10.0  # seconds
MIN_LAG = 0.01  # shorter ones are usual
MAX_LAG = 0.25  # of a loop that is not overloaded
RECENT = 5.0  # seconds for which a lag counts as a present one
OVERLOAD_SHARE = 0.5  # of the time until a timeout; a loop that was held for so long explains it


class OverloadedError(TimeoutError):
    """A deadline has passed because the event loop was held, and not because a backend was slow."""

    def __init__(self) -> None:
        super().__init__("the event loop was busy for most of the time")


class EventLoopMonitor:
    """Measures the lag with a timer inside its block. Before and after it, there is no lag.

    It is no entry of the lifespan: it opens nothing, and a timer has nothing to wait for at the end.
    """

    def __init__(self) -> None:
        """Start no timer yet."""
        self._lags: deque[tuple[float, float]] = deque()  # the end of each lag (`time.monotonic()`), and its seconds
        self._due_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._start_timer()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._due_at = None

    def recent_lag(self) -> float:
        """Return the longest lag of the last `RECENT` seconds, in seconds."""
        now = monotonic()
        return max([lag for ended_at, lag in self._lags if ended_at > now - RECENT] + [self._overdue(now)])

    def was_held_since(self, started_at: float) -> bool:
        """Return whether the loop was held for most of the time since `started_at` (`time.monotonic()`).

        Only the last `HISTORY` seconds count.
        """
        now = monotonic()
        started_at = max(started_at, now - HISTORY)
        held = sum(min(lag, ended_at - started_at) for ended_at, lag in self._lags if ended_at > started_at)
        held += min(self._overdue(now), now - started_at)
        return held > (now - started_at) * OVERLOAD_SHARE

    def _overdue(self, now: float) -> float:
        """Return the lag that has not ended: a caller may run before the timer after the loop was held."""
        return 0.0 if self._due_at is None else max(0.0, now - self._due_at)

    def _start_timer(self) -> None:
        self._due_at = monotonic() + INTERVAL
        self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._measure)

    def _measure(self) -> None:
        now = monotonic()
        lag = self._overdue(now)
        if lag >= MIN_LAG:
            self._lags.append((now, lag))
        while self._lags and self._lags[0][0] < now - HISTORY:
            self._lags.popleft()
        self._start_timer()
