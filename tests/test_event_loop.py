"""The monitor of the event loop: which lags it reports, and which timeouts they explain."""

import time
from collections.abc import AsyncIterator

import pytest

from gateway import event_loop
from gateway.event_loop import MIN_LAG, EventLoopMonitor
from tests.support.waiting import wait_until

HELD = 0.2  # seconds


@pytest.fixture
async def monitor() -> AsyncIterator[EventLoopMonitor]:
    with EventLoopMonitor() as monitor:
        yield monitor


async def test_held_loop(monitor: EventLoopMonitor) -> None:
    """The lag of a held loop is reported before the timer of the monitor has run, and afterwards."""
    started_at = time.monotonic()
    time.sleep(HELD)  # noqa: ASYNC251 - holds the loop
    lag_before_timer = monitor.recent_lag()
    explained_before_timer = monitor.was_held_since(started_at)
    await wait_until(lambda: bool(monitor._lags), "the timer has run")

    assert HELD / 2 < lag_before_timer <= monitor.recent_lag()
    assert explained_before_timer
    assert monitor.was_held_since(started_at)


async def test_lag_before_a_call_does_not_count(monitor: EventLoopMonitor) -> None:
    """A lag that has ended before a call started does not count, and hides no later one."""
    now = time.monotonic()
    monitor._lags.append((now - 5, HELD))
    before = monitor.was_held_since(now - HELD)
    monitor._lags.append((now, HELD))

    assert (before, monitor.was_held_since(now - HELD)) == (False, True)


async def test_short_lag_does_not_explain_a_long_call(monitor: EventLoopMonitor) -> None:
    """A lag explains no timeout of a call that took much longer."""
    started_at = time.monotonic() - 5 * HELD
    time.sleep(HELD)  # noqa: ASYNC251 - holds the loop

    assert not monitor.was_held_since(started_at)


async def test_old_lags_are_forgotten(monitor: EventLoopMonitor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lag is a present one for a few seconds only, and later it takes no memory."""
    monkeypatch.setattr(event_loop, "RECENT", 0.1)
    time.sleep(HELD)  # noqa: ASYNC251 - holds the loop
    await wait_until(lambda: bool(monitor._lags), "the timer has run")
    await wait_until(lambda: monitor.recent_lag() < MIN_LAG, "no lag is a present one")
    stored = len(monitor._lags)
    monkeypatch.setattr(event_loop, "HISTORY", 0.1)
    await wait_until(lambda: not monitor._lags, "no lag is stored")

    assert stored > 0


async def test_no_lag_outside_of_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """A monitor that does not run reports no lag."""
    monkeypatch.setattr(event_loop, "INTERVAL", 0.0)
    started_at = time.monotonic()
    monitor = EventLoopMonitor()
    time.sleep(MIN_LAG)  # noqa: ASYNC251 - holds the loop
    before = monitor.recent_lag(), monitor.was_held_since(started_at)
    with monitor:
        pass
    time.sleep(MIN_LAG)  # noqa: ASYNC251 - holds the loop

    assert before == (monitor.recent_lag(), monitor.was_held_since(started_at)) == (0, False)
