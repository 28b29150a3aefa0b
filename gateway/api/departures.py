"""Clients that go away before they have their answer."""

import asyncio
import contextlib
from collections.abc import Generator

from fastapi import Request

PATIENCE = 0.1
"""Seconds before we look. Most answers take less, and need not pay for a task that watches."""


@contextlib.contextmanager
def while_connected(request: Request) -> Generator[None]:
    """Cancel what is awaited in here once the client has gone: nobody would read the answer.

    The request must have no body, or have read it.
    """
    working = asyncio.current_task()
    watching: list[asyncio.Task[None]] = []

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        if working is not None:
            working.cancel()

    timer = asyncio.get_running_loop().call_later(PATIENCE, lambda: watching.append(asyncio.create_task(watch())))
    try:
        yield
    finally:
        timer.cancel()
        for task in watching:
            task.cancel()
