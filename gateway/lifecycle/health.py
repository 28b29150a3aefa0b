"""Health: ask every entry that can be asked, at once, each within a deadline."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from gateway.lifecycle.entry import Entry
from gateway.lifecycle.journal import describe


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
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_check(entry, within)) for entry in entries]
    return [task.result() for task in tasks]


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
