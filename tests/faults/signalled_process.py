"""`gateway serve` as a process of its own, in which one thing hangs while it gets stop signals."""

import json
import time
from datetime import datetime
from signal import Signals
from typing import Any

from gateway.lifecycle import EventType, LifecycleEvent
from tests.end_to_end.conftest import StartProcess
from tests.faults.lifespan_run import LifespanRun, recorded_event
from tests.support.entries import RESOURCES
from tests.support.waiting import wait_until

PROGRAM = "tests.faults.hanging_app"

# One signal: the stop timeout of what hangs expires. Those of relay, reports, views and briefs are 3 s, always.
SHORT_TIMEOUTS = {f"GATEWAY_{name.upper()}__STOP_TIMEOUT": "0.3" for name in RESOURCES} | {
    "GATEWAY_GRACEFUL_SECONDS": "0.3"
}
# Two signals: no timeout can be the reason for the end.
LONG_TIMEOUTS = dict.fromkeys(SHORT_TIMEOUTS, "50") | {"GATEWAY_SHUTDOWN_TIMEOUT": "60"}

MAX_STOP_DURATION = (
    20.0  # a stop takes 0.3 s, 3 s or, forced, half a second: far less than 50 s, even on a busy machine
)

_EVENTS = {event.value for event in EventType}


class SignalledProcess:
    """A gateway process, and the signals that it gets."""

    def __init__(self, run: StartProcess, signals: list[Signals], runs: list[LifespanRun]) -> None:
        """Start no process yet. When the process has ended, its run is appended to `runs`."""
        self.forced = len(signals) > 1
        self.stop_duration = 0.0  # seconds from the last signal to the end
        self._run = run
        self._runs = runs
        self._signals = iter(signals)
        self._signalled_at = 0.0

    def start(self, *where: str, hangs_until_cancelled: int = 1) -> None:
        """Start the process; see hanging_app.py for `where`."""
        timeouts = LONG_TIMEOUTS if self.forced else SHORT_TIMEOUTS
        variables = {"HANGS_UNTIL_CANCELLED": str(hangs_until_cancelled), **timeouts}
        self.process = self._run("-m", PROGRAM, *where, **variables)

    async def hangs(self, times: int = 1) -> None:
        """Wait until it hangs. The second time is after it was cancelled and has ignored that."""
        await wait_until(
            lambda: self.process.output.count('"event": "hanging"') >= times, f"the process hangs {times} times"
        )

    def send_signal(self) -> None:
        """Send the next signal."""
        self.process.send_signal(next(self._signals))
        self._signalled_at = time.monotonic()

    async def exit_status(self) -> int:
        """Wait until the process has ended after its last signal, and return its exit status."""
        assert list(self._signals) == []
        status = await self.process.exit_status(timeout=3 * MAX_STOP_DURATION)
        self.stop_duration = time.monotonic() - self._signalled_at
        self._runs.append(LifespanRun(journal=self._events()))
        return status

    @property
    def journal(self) -> list[str]:
        """The lifecycle events that it has logged, as `exited redis`."""
        return [" ".join(filter(None, (event.type, event.name))) for event in self._events()]

    def _events(self) -> list[LifecycleEvent]:
        lines = [json.loads(line) for line in self.process.output.splitlines() if line.startswith("{")]
        logged = [line for line in lines if line["event"] in _EVENTS]
        return [_event(line, since=logged[0]) for line in logged]


def _event(line: dict[str, Any], *, since: dict[str, Any]) -> LifecycleEvent:
    at = datetime.fromisoformat(line["timestamp"]) - datetime.fromisoformat(since["timestamp"])
    return recorded_event(at.total_seconds(), line["event"], line.get("entry"), line.get("error"))
