"""Clients that disconnect before they have their response."""

import asyncio

from fastapi import Request

WATCH_DELAY = 0.4  # nearly all responses are faster, also under load, and need no task that watches the connection


class CancelOnDisconnect:
    """Cancels the current task if the client disconnects inside the block, and sets `request.state.disconnected`.

    The request must have no body, or its body must have been read.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._watcher: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(WATCH_DELAY, self._start_watcher)

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None  # its traceback refers to this object: a cycle for each slow request

    def _start_watcher(self) -> None:
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self._request.state.disconnected = True
        if self._task is not None:
            self._task.cancel()
