"""Asking a backend, with a deadline that holds whatever the client library under it does."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE = 0.1
"""Seconds until what resists its cancellation is cancelled again."""


class Questions:
    """Each question is a task of its own. At its deadline it is cancelled, and not waited for.

    SQLAlchemy gives a connection back behind a shield, which takes seconds when the server has stopped: whoever asked
    has been answered by then. What lingers so is kept here, and ended before the resources are released.
    """

    def __init__(self) -> None:
        self._lingering: set[asyncio.Task[Any]] = set()

    async def ask(self, question: Coroutine[Any, Any, T], *, within: float) -> T:
        """Await the answer, `within` seconds at most.

        Raises:
            TimeoutError: there was none in time.
            Exception: whatever the question raised.
        """
        task = asyncio.create_task(question)
        try:
            await asyncio.wait({task}, timeout=within)
        except asyncio.CancelledError:
            self._leave(task)
            raise
        if not task.done():
            self._leave(task)
            raise TimeoutError(f"no answer within {within:.3g} s")
        if task.cancelled():  # not by us: some libraries do on a lost connection
            raise ConnectionError("the question was cancelled by the client library")
        return task.result()

    def _leave(self, task: asyncio.Task[Any]) -> None:
        task.cancel()
        self._lingering.add(task)
        task.add_done_callback(self._left)

    def _left(self, task: asyncio.Task[Any]) -> None:
        self._lingering.discard(task)
        if not task.cancelled():
            task.exception()  # nobody waits for it any more

    async def end(self) -> None:
        """End what still lingers, however often that takes; the entry that this belongs to has a deadline."""
        while self._lingering:
            for task in self._lingering:
                task.cancel()
            await asyncio.wait(self._lingering, timeout=PATIENCE)
