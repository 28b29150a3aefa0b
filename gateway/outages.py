"""Which failures to log: the first of each kind and one in each interval, instead of a line for each."""

import time
from collections.abc import Hashable
from dataclasses import dataclass

SUMMARY_INTERVAL = 60.0  # between two lines about failures of one kind
RECOVERY_TIME = 5.0  # without a failure, after which a success ends the outage


@dataclass(slots=True)
class _Kind:
    logged_at: float
    unlogged: int = 0


class Outage:
    """The failures of something since it last worked.

    Attributes:
        count: the number of all failures.
    """

    def __init__(self) -> None:
        self.count = 0
        self._latest_at = 0.0
        self._kinds: dict[Hashable, _Kind] = {}

    def record(self, kind: Hashable) -> int | None:
        """Count a failure. If it should be logged, return how many of its kind were not logged since the last line."""
        self.count += 1
        self._latest_at = now = time.monotonic()
        known = self._kinds.get(kind)
        if known is not None and now - known.logged_at < SUMMARY_INTERVAL:
            known.unlogged += 1
            return None
        self._kinds[kind] = _Kind(now)
        return known.unlogged if known is not None else 0

    def is_over(self) -> bool:
        """Return whether a success now ends the outage. Soon after a failure, the next call may fail again."""
        return self.count > 0 and time.monotonic() - self._latest_at >= RECOVERY_TIME
