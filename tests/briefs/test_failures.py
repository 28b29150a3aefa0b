"""The failures of briefs: counted, and logged once for each kind."""

from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway import outages
from gateway.briefs.circuit_breaker import CircuitOpenError
from gateway.briefs.failures import Failures
from gateway.briefs.models import Reason
from gateway.outages import RECOVERY_TIME, SUMMARY_INTERVAL


class Clock:
    """A clock that the test sets."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(outages, "time", clock)
    return clock


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with capture_logs() as logs:
        yield logs


def test_first_of_each_kind_is_logged(logs: list[Any]) -> None:
    """A kind is a part, a reason and a type of error. The line has the cause, and all failures are counted."""
    failures = Failures()
    for _ in range(3):
        assert failures.record("popularity", ConnectionRefusedError("no server")) is Reason.REFUSED
        failures.record("popularity", ValueError("no number"))
        failures.record("weather", ConnectionRefusedError("no server"))

    assert [(line["part"], line["reason"], line["error"]) for line in logs] == [
        ("popularity", "refused", "ConnectionRefusedError: no server"),
        ("popularity", "error", "ValueError: no number"),
        ("weather", "refused", "ConnectionRefusedError: no server"),
    ]
    assert failures.summary() == "failures: popularity error 3, popularity refused 3, weather refused 3"


def test_open_circuit_names_its_cause(logs: list[Any]) -> None:
    """The line about a call that was rejected has the failure that opened the circuit."""
    error = CircuitOpenError("not called")
    error.__cause__ = TimeoutError("no response within 1 s")

    assert Failures().record("popularity", error) is Reason.OPEN
    assert logs[0]["error"] == "CircuitOpenError: not called: TimeoutError: no response within 1 s"


def test_long_outage_is_summarised(clock: Clock, logs: list[Any]) -> None:
    """Failures that go on are logged again after an interval, with the number of those between."""
    failures = Failures()
    for _ in range(10):
        failures.record("weather", TimeoutError())
    clock.now += SUMMARY_INTERVAL
    failures.record("weather", TimeoutError())

    assert [line["unlogged"] for line in logs] == [0, 9]


def test_recovery_is_logged_once(clock: Clock, logs: list[Any]) -> None:
    """A success some time after the last failure ends the outage, and the next failure is logged at once."""
    failures = Failures()
    failures.record("weather", TimeoutError())
    failures.record("weather", TimeoutError())
    clock.now += RECOVERY_TIME
    failures.record_success(["weather", "popularity"])
    failures.record_success(["weather"])
    failures.record("weather", TimeoutError())

    assert [line["event"].removeprefix("part of briefs ") for line in logs] == ["failed", "recovered", "failed"]
    assert logs[1]["failures"] == 2


def test_alternating_results_are_one_outage(clock: Clock, logs: list[Any]) -> None:
    """A part of which every second call fails does not fill the log."""
    failures = Failures()
    for _ in range(20):
        failures.record("weather", TimeoutError())
        clock.now += RECOVERY_TIME / 2
        failures.record_success(["weather"])

    assert len(logs) == 1
