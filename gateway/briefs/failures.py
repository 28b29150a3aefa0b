"""Counts the failures of the parts of a brief, and logs the first of each kind instead of one line for each brief."""

from collections import Counter
from collections.abc import Iterable

import structlog

from gateway.briefs.circuit_breaker import CircuitOpenError
from gateway.briefs.models import Reason, reason_for
from gateway.lifecycle import format_error
from gateway.outages import Outage

log = structlog.get_logger("gateway.briefs")


class Failures:
    """The failures of all parts: the sections, the place, and the writes to the cache.

    A part that works costs nothing: `record_success` has to be called only while there are `outages`.

    Attributes:
        counts: the number of failures since the start, by part and reason.
        outages: by part, for the parts that have failed and have not recovered.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, Reason]] = Counter()
        self.outages: dict[str, Outage] = {}

    def record(self, part: str, error: BaseException) -> Reason:
        """Count a failure, log it if it is the first of its kind, and return its reason."""
        reason = reason_for(error)
        self.counts[part, reason] += 1
        unlogged = self.outages.setdefault(part, Outage()).record((reason, type(error)))
        if unlogged is not None:
            log.warning(
                "part of briefs failed", part=part, reason=reason.value, error=_describe(error), unlogged=unlogged
            )
        return reason

    def record_success(self, parts: Iterable[str]) -> None:
        """End the outages of these parts, unless they are so short ago that the parts may fail again."""
        for part in parts:
            outage = self.outages.get(part)
            if outage is not None and outage.is_over():
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
