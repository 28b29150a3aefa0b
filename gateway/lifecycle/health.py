"""Health checks: all entries at the same time, each with a timeout."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from .cancellation import current_task_cancelled
from .entry import Entry
from .journal import format_error

CHECK_GRACE = 0.1  # time for a check to end after its timeout

# Checks that ignore their cancellation. They are not awaited; the set keeps them referenced until they end.
_stuck_checks: set[asyncio.Task["CheckResult"]] = set()


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The health of one entry. `duration` is in seconds; `detail` is the check's own text, or the error's."""

    name: str
    ok: bool
    duration: float
    detail: str | None = None
    error: BaseException | None = None


async def run_health_checks(entries: Iterable[Entry[Any]], *, timeout: float) -> list[CheckResult]:
    """Check all entries concurrently, each for at most `timeout` seconds. The results are in the order of the entries.

    An entry without a check is healthy unless it has crashed.
    """
    started = monotonic()
    tasks = {asyncio.create_task(_check(entry, timeout), name=f"check of {entry.name}"): entry for entry in entries}
    if not tasks:
        return []
    try:
        _, stuck = await asyncio.wait(tasks, timeout=timeout + CHECK_GRACE)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        raise
    _stuck_checks.update(stuck)
    for task in stuck:
        task.add_done_callback(_stuck_checks.discard)
    error = _timeout_error(timeout)
    return [
        CheckResult(entry.name, False, monotonic() - started, format_error(error), error)
        if task in stuck
        else task.result()
        for task, entry in tasks.items()
    ]


async def _check(entry: Entry[Any], timeout: float) -> CheckResult:
    started = monotonic()
    detail = None
    error: Exception | None = None
    if entry.crashed:
        error = RuntimeError("the entry has crashed")
    elif entry.check is not None:
        try:
            async with asyncio.timeout(timeout):
                detail = await entry.check()
        except TimeoutError as timed_out:
            error = timed_out if str(timed_out) else _timeout_error(timeout)
        except asyncio.CancelledError:
            if current_task_cancelled():
                raise
            error = RuntimeError("the check cancelled itself")  # some libraries do so when a connection is lost
        except Exception as failure:  # noqa: BLE001 - every failure is a result
            error = failure
    if error is not None:
        detail = format_error(error)
    return CheckResult(entry.name, error is None, monotonic() - started, detail, error)


def _timeout_error(timeout: float) -> TimeoutError:
    return TimeoutError(f"no answer within {timeout:.3g} s")
