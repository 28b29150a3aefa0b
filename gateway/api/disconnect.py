"""Clients that go away before they have their answer."""

import asyncio

from fastapi import Request

PATIENCE = 0.1
"""Seconds before we look. Most answers take less, and need not pay for a task that watches."""


class cancel_on_disconnect:  # noqa: N801 - used like a function
    """Cancels what is awaited in it once the client has gone: nobody would read the answer.

    The request must have no body, or have read it.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._watching: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        self._working = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(PATIENCE, self._begin_to_watch)

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._watching is not None:
            self._watching.cancel()

    def _begin_to_watch(self) -> None:
        self._watching = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        if self._working is not None:
            self._working.cancel()
