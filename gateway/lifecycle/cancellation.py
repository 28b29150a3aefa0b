"""Finish a coroutine despite a cancellation, and detect a cancellation that a library has swallowed."""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def finish_despite_cancellation(coro: Coroutine[Any, Any, None]) -> asyncio.CancelledError | None:
    """Run `coro` to its end, even if the caller is cancelled. Return the first cancellation of the caller, if any."""
    cancelled = None
    task = asyncio.create_task(coro)
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = cancelled or error
    task.result()
    return cancelled


def current_task_cancelled() -> bool:
    """Return whether the current task was cancelled, even if a library has swallowed the `CancelledError`."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def raise_if_cancelled() -> None:
    """Raise `CancelledError` if the current task was cancelled."""
    if current_task_cancelled():
        raise asyncio.CancelledError
