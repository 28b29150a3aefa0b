"""Clients that disconnect before they have their response."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import Request

WATCH_DELAY = 0.1  # most responses are faster, and need no task that watches the connection


@contextmanager
def cancel_on_disconnect(request: Request) -> Iterator[None]:
    """Cancel the current task if the client disconnects inside the block.

    The request must have no body, or its body must have been read.
    """
    task = asyncio.current_task()
    watcher: asyncio.Task[None] | None = None

    def start_watcher() -> None:
        nonlocal watcher
        watcher = asyncio.create_task(_cancel_on_disconnect(request, task))

    timer = asyncio.get_running_loop().call_later(WATCH_DELAY, start_watcher)
    try:
        yield
    finally:
        timer.cancel()
        if watcher is not None:
            watcher.cancel()


async def _cancel_on_disconnect(request: Request, task: "asyncio.Task[Any] | None") -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    if task is not None:
        task.cancel()
