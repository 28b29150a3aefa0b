"""Admission control: the bound of the requests in progress, so that those that are accepted get their responses in time."""

import math
from time import monotonic

from gateway.process.cpu_demand import runnable_time

MAX_REQUESTS = 600

INTERVAL = 0.1  # seconds between two changes of the bound
BUSY_SHARE = 0.5  # of an interval in which the thread ran or waited for a CPU, if it is busy
SHRINK = 0.9  # the factor of the bound after a busy interval in which most responses were slow
GROWTH = 0.03  # the share by which the bound grows in each other interval

# While at least this share of the bound is in use, a client that was refused is accepted again only if the bound was not reached for
# `FULL_TIME`, and then one client in each `READMISSION_INTERVAL`, in seconds.
IN_USE_SHARE = 0.25
FULL_TIME = 0.5
READMISSION_INTERVAL = 0.1

MIN_REQUESTS = 32  # enough to use the whole process


class Admission:
    """Bounds the requests in progress.

    More requests in progress make no response faster, they only wait for each other. If they wait for so long that their
    deadlines pass, the process works on responses that come too late. So the bound shrinks while the process is busy and most
    responses are slow, and grows again up to its maximum. Responses that wait for a slow backend leave the process idle.

    While there are more clients than the bound, those that were accepted stay accepted, and get fast responses. Otherwise all
    clients would take turns, and each would wait for too long.
    """

    def __init__(self, max_requests: int = MAX_REQUESTS, slow: float = math.inf) -> None:
        """Begin with the highest bound.

        Args:
            max_requests: the highest bound.
            slow: the seconds that a response may take before it counts as slow.
        """
        self._max_requests = max_requests
        self._min_requests = min(MIN_REQUESTS, max_requests)
        self._slow = slow
        self._bound = float(max_requests)
        self._readmits_at = -math.inf
        self._interval_began_at = monotonic()
        self._runnable_time = runnable_time()
        self._responses = 0
        self._slow_responses = 0

    @property
    def bound(self) -> int:
        """The number of requests that may be in progress."""
        return int(self._bound)

    def accepts(self, in_progress: int, *, was_refused: bool) -> bool:
        """Return whether a further request is accepted.

        Args:
            in_progress: the number of requests in progress.
            was_refused: the last request of the same client was refused.
        """
        now = monotonic()
        if was_refused and in_progress >= self.bound * IN_USE_SHARE:
            if now < self._readmits_at:
                return False
            self._readmits_at = now + READMISSION_INTERVAL
        if in_progress + 1 >= self.bound:
            self._readmits_at = now + FULL_TIME
        return in_progress < self.bound

    def record(self, duration: float) -> None:
        """Record a response, and the seconds since its request arrived."""
        self._responses += 1
        self._slow_responses += duration > self._slow
        now = monotonic()
        elapsed = now - self._interval_began_at
        if elapsed < INTERVAL:
            return
        runnable = runnable_time()
        is_busy = runnable - self._runnable_time > elapsed * BUSY_SHARE
        if is_busy and 2 * self._slow_responses > self._responses:
            self._bound = max(self._bound * SHRINK, self._min_requests)
        else:
            self._bound = min(self._bound * (1 + GROWTH * elapsed / INTERVAL), self._max_requests)
        self._interval_began_at = now
        self._runnable_time = runnable
        self._responses = self._slow_responses = 0
