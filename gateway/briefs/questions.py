"""Asking a backend, with a deadline that holds whatever the client library under it does; and work that nobody awaits."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog

T = TypeVar("T")

log = structlog.get_logger("gateway.briefs")

PATIENCE = 0.1
"""Seconds until what goes on is cancelled, and what resists its cancellation is cancelled again."""


class Questions:
    """Each question is a task of its own. At its deadline it is cancelled, and not waited for.

    Client libraries may take their time to give a connection back, or resist: whoever asked has been answered by then.
    What lingers so is kept here, with all that works in the background, and ended before the resources are released.
    """

    def __init__(self) -> None:
        self._kept: set[asyncio.Task[Any]] = set()
        self._ended = False

    def keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` to its end, or to ours. It has its own ways with what can go wrong: what it raises is a mistake."""
        self._hold(asyncio.create_task(work), _report)

    async def ask(self, question: Coroutine[Any, Any, T], *, within: float) -> T:
        """Await the answer, `within` seconds at most.

        Raises:
            TimeoutError: there was none in time.
            ConnectionError: we have ended, and nothing is asked any more.
            Exception: whatever the question raised.
        """
        if self._ended:
            question.close()
            raise ConnectionError("nothing is asked any more")
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
        self._hold(task, _ignore)

    def _hold(self, task: asyncio.Task[Any], judge: Callable[[BaseException], object]) -> None:
        def done(task: asyncio.Task[Any]) -> None:
            self._kept.discard(task)
            error = None if task.cancelled() else task.exception()
            if error is not None:
                judge(error)

        self._kept.add(task)
        task.add_done_callback(done)

    async def end(self) -> None:
        """End what is still kept: by itself if it takes but a moment, else by force, however often that takes.

        The entry that this belongs to has a deadline.
        """
        self._ended = True
        if self._kept:
            await asyncio.wait(self._kept, timeout=PATIENCE)
        while self._kept:
            for task in self._kept:
                task.cancel()
            await asyncio.wait(self._kept, timeout=PATIENCE)


def _report(error: BaseException) -> None:
    log.error("background work failed", exc_info=error)


def _ignore(_error: BaseException) -> None:
    """Nobody waits for the answer any more."""
