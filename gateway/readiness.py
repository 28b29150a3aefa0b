"""Whether the gateway should be sent requests, and what each resource says of itself."""

import asyncio
from dataclasses import dataclass, field
from time import monotonic

from gateway.lifecycle import CheckResult, LifecycleStack, Phase, run_health_checks

CHECK_WITHIN = 1.0
"""Seconds that the check of one resource may take."""

FRESH_FOR = 0.5
"""Seconds for which a report is given again: several may ask at once."""

ESSENTIAL = "database"
"""The one resource without which there is no answer at all. The others must not take every replica out of service."""


@dataclass(frozen=True, slots=True)
class ReadinessStatus:
    """What `/readyz` says."""

    ready: bool
    status: str
    """`ok`, `degraded` (some resource is away), `unavailable`, or the phase of a life that is not serving."""
    checks: list[CheckResult] = field(default_factory=list)


class Readiness:
    """Asks the resources how they are, and remembers since when the essential one has been away."""

    def __init__(self, stack: LifecycleStack, *, grace: float) -> None:
        """`grace` is how many seconds the essential resource may be away before we are not ready."""
        self._stack = stack
        self._grace = grace
        self._away_since: float | None = None
        self._asking = asyncio.Lock()
        self._latest: tuple[float, ReadinessStatus] | None = None

    async def report(self) -> ReadinessStatus:
        if not self._stack.ready:
            died = self._stack.phase is Phase.STARTED
            return ReadinessStatus(ready=False, status="unavailable" if died else self._stack.phase)
        async with self._asking:  # whoever comes meanwhile waits, and gets the same
            if self._latest is None or monotonic() - self._latest[0] >= FRESH_FOR:
                report = self._judge(await run_health_checks(self._stack.entries, timeout=CHECK_WITHIN), monotonic())
                self._latest = monotonic(), report
            return self._latest[1]

    def _judge(self, checks: list[CheckResult], now: float) -> ReadinessStatus:
        away = any(check.name == ESSENTIAL and not check.ok for check in checks)
        self._away_since = (self._away_since or now) if away else None
        if self._away_since is not None and now - self._away_since > self._grace:
            return ReadinessStatus(ready=False, status="unavailable", checks=checks)
        status = "ok" if all(check.ok for check in checks) else "degraded"
        return ReadinessStatus(ready=True, status=status, checks=checks)
