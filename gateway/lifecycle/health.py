"""Health: ask every entry that can be asked, at once, each within a deadline."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from gateway.lifecycle.entry import Entry
from gateway.lifecycle.journal import describe

OVERTIME = 0.1
"""Seconds that a check has to end once its time is up."""

_late: set[asyncio.Task["Finding"]] = set()
"""Checks that ignore their cancellation: nobody waits for them, and they are kept until they end."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What the check of one entry found."""

    name: str
    ok: bool
    took: float
    """Seconds."""
    remark: str | None = None
    error: BaseException | None = None


async def check_all(entries: Iterable[Entry[Any]], *, within: float) -> list[Finding]:
    """Check the entries concurrently, each within `within` seconds; the findings are in the order of the entries."""
    began = monotonic()
    tasks = {asyncio.create_task(_check(entry, within), name=f"check of {entry.name}"): entry for entry in entries}
    if not tasks:
        return []
    try:
        _, late = await asyncio.wait(tasks, timeout=within + OVERTIME)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        raise
    _late.update(late)
    for task in late:
        task.add_done_callback(_late.discard)
    error = TimeoutError(f"no answer within {within:.3g} s")
    return [
        Finding(entry.name, False, monotonic() - began, describe(error), error) if task in late else task.result()
        for task, entry in tasks.items()
    ]


async def _check(entry: Entry[Any], within: float) -> Finding:
    began = monotonic()
    remark = None
    error: Exception | None = None
    if entry.died:
        error = RuntimeError("it ended by itself")
    elif entry.check is not None:
        try:
            async with asyncio.timeout(within):
                remark = await entry.check()
        except TimeoutError as late:
            error = late if str(late) else TimeoutError(f"no answer within {within:.3g} s")
        except asyncio.CancelledError:
            if _being_cancelled():
                raise
            error = RuntimeError("the check cancelled itself")  # some libraries do on a lost connection
        except Exception as failure:  # noqa: BLE001 - a finding, whatever it is
            error = failure
    if error is not None:
        remark = describe(error)
    return Finding(entry.name, error is None, monotonic() - began, remark, error)


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
