"""Readiness: the report to load balancers that this process should get requests, or that it should not."""

import asyncio
from dataclasses import dataclass, field
from time import monotonic

from gateway.event_loop import MAX_LAG, RECENT, EventLoopMonitor
from gateway.lifecycle import CheckResult, LifecycleStack, Phase, run_health_checks
from gateway.resources.base import DegradedError
from gateway.resources.database_errors import is_reachable

CHECK_TIMEOUT = 1.0  # for the check of one entry
REPORT_TTL = 0.5  # several load balancers may request a report at the same time
# Without the database no brief is possible. A failure of another entry must not take every replica out of service.
REQUIRED_ENTRY = "database"


@dataclass(frozen=True, slots=True)
class ReadinessStatus:
    """The result of the health checks.

    Attributes:
        ready: load balancers should send requests.
        status: `ok`, `degraded` (a check fails), `unavailable`, or the phase of a startup or shutdown.
        checks: one for each entry, and one for the event loop; none during a startup or shutdown.
    """

    ready: bool
    status: str
    checks: list[CheckResult] = field(default_factory=list)


class Readiness:
    """Runs the health checks of the entries, and tracks for how long the required entry has been unavailable.

    Attributes:
        last_failures: the error of the latest failed check of each entry that has failed, and its time in seconds of the journal.
    """

    def __init__(self, stack: LifecycleStack, *, grace: float, event_loop: EventLoopMonitor) -> None:
        """Run no check yet.

        Args:
            stack: its entries are checked.
            grace: the seconds for which the required entry may be unavailable while the process stays ready.
            event_loop: its lag is checked.
        """
        self.last_failures: dict[str, tuple[float, BaseException]] = {}
        self._stack = stack
        self._grace = grace
        self._event_loop = event_loop
        self._unavailable_since: float | None = None
        self._lock = asyncio.Lock()
        self._latest: tuple[float, ReadinessStatus] | None = None

    async def report(self) -> ReadinessStatus:
        """Run the checks, unless the latest report is fresh. Concurrent callers share one run."""
        if not self._stack.ready:
            crashed = self._stack.phase is Phase.STARTED
            return ReadinessStatus(ready=False, status="unavailable" if crashed else self._stack.phase)
        async with self._lock:
            if self._latest is None or monotonic() - self._latest[0] >= REPORT_TTL:
                started_at = monotonic()
                checks = await run_health_checks(self._stack.entries, timeout=CHECK_TIMEOUT)
                self._latest = monotonic(), self._evaluate(checks, started_at)
                self.last_failures |= {
                    check.name: (self._stack.journal.now, check.error) for check in checks if check.error
                }
            return self._latest[1]

    async def wait_for_checks(self) -> None:
        """Return when no checks are in progress."""
        async with self._lock:
            pass

    def _evaluate(self, checks: list[CheckResult], started_at: float) -> ReadinessStatus:
        now = monotonic()
        required = [check for check in checks if check.name == REQUIRED_ENTRY and not check.ok]
        unavailable = any(not _is_usable(check) and not self._is_overload(check, started_at) for check in required)
        self._unavailable_since = (self._unavailable_since or now) if unavailable else None
        checks = [*checks, self._check_event_loop()]
        if self._unavailable_since is not None and now - self._unavailable_since > self._grace:
            return ReadinessStatus(ready=False, status="unavailable", checks=checks)
        status = "ok" if all(check.ok for check in checks) else "degraded"
        return ReadinessStatus(ready=True, status=status, checks=checks)

    def _is_overload(self, failed: CheckResult, started_at: float) -> bool:
        """Return whether a check has timed out because the event loop was held. A load on all replicas causes that, too."""
        return isinstance(failed.error, TimeoutError) and self._event_loop.was_held_since(started_at)

    def _check_event_loop(self) -> CheckResult:
        lag = self._event_loop.recent_lag()
        detail = f"at most {lag * 1000:.0f} ms late in the last {RECENT:g} s"
        return CheckResult("event_loop", lag <= MAX_LAG, 0.0, detail)


def _is_usable(failed: CheckResult) -> bool:
    """Return whether the required entry works in part, or only has too many users.

    All replicas share such a problem. If it made them unready, a load balancer would have none left.
    """
    return isinstance(failed.error, DegradedError) or is_reachable(failed.error)
