"""Counts the failures of the parts of a brief, and logs the first of each kind instead of one line for each brief."""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import structlog

from gateway.briefs.circuit_breaker import CircuitOpenError
from gateway.briefs.models import Reason, reason_for
from gateway.lifecycle import format_error

SUMMARY_INTERVAL = 60.0  # between two lines about failures of one kind
RECOVERY_TIME = 5.0  # without a failure, after which a part that succeeds has recovered

log = structlog.get_logger("gateway.briefs")


@dataclass(slots=True)
class _Kind:
    """The failures of one part with the same reason and type of error."""

    logged_at: float
    unlogged: int = 0


@dataclass(slots=True)
class _Outage:
    """The failures of one part since it last worked."""

    latest_at: float = 0.0
    count: int = 0
    kinds: dict[tuple[Reason, type[BaseException]], _Kind] = field(default_factory=dict)


class Failures:
    """The failures of all parts: the sections, the place, and the writes to the cache.

    A part that works costs nothing: `record_success` has to be called only while there are `outages`.

    Attributes:
        counts: the number of failures since the start, by part and reason.
        outages: by part, for the parts that have failed and have not recovered.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, Reason]] = Counter()
        self.outages: dict[str, _Outage] = {}

    def record(self, part: str, error: BaseException) -> Reason:
        """Count a failure, log it if it is the first of its kind, and return its reason."""
        now = time.monotonic()
        reason = reason_for(error)
        self.counts[part, reason] += 1
        outage = self.outages.setdefault(part, _Outage())
        outage.latest_at = now
        outage.count += 1
        kind = outage.kinds.get((reason, type(error)))
        if kind is not None and now - kind.logged_at < SUMMARY_INTERVAL:
            kind.unlogged += 1
            return reason
        more = {"unlogged": kind.unlogged} if kind is not None else {}
        log.warning("part of briefs failed", part=part, reason=reason.value, error=_describe(error), **more)
        outage.kinds[reason, type(error)] = _Kind(now)
        return reason

    def record_success(self, parts: Iterable[str]) -> None:
        """End the outages of these parts, unless they are so short ago that the parts may fail again."""
        now = time.monotonic()
        for part in parts:
            outage = self.outages.get(part)
            if outage is not None and now - outage.latest_at >= RECOVERY_TIME:
                log.info("part of briefs recovered", part=part, failures=outage.count)
                del self.outages[part]

    def summary(self) -> str:
        """Return all counts in one line."""
        counts = ", ".join(f"{part} {reason} {count}" for (part, reason), count in sorted(self.counts.items()))
        return f"failures: {counts}" if counts else "no failures"


def _describe(error: BaseException) -> str:
    """Return the error in one line, with the failure that opened the circuit breaker."""
    if isinstance(error, CircuitOpenError) and error.__cause__ is not None:
        return f"{format_error(error)}: {format_error(error.__cause__)}"
    return format_error(error)
