"""Asking a backend, with a deadline that holds whatever the client library under it does; and work that nobody awaits."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

T = TypeVar("T")

log = structlog.get_logger("gateway.briefs")

PATIENCE = 0.1
"""Seconds until what goes on is cancelled, and what resists its cancellation is cancelled again."""


class Questions:
    """Each question is a task of its own. At its deadline it is cancelled, and not waited for.

    Client libraries may take their time to give a connection back, or resist: whoever asked has been answered by then.
    All that is under way is kept here, with what works in the background, and ended before the resources are released.
    """

    def __init__(self) -> None:
        self._kept: set[asyncio.Task[Any]] = set()
        self._ended = False

    def keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` to its end, or to ours. It has its own ways with what can go wrong: what it raises is a mistake."""

        def done(task: asyncio.Task[None]) -> None:
            self._kept.discard(task)
            error = None if task.cancelled() else task.exception()
            if error is not None:
                log.error("background work failed", exc_info=error)

        task = asyncio.create_task(work)
        self._kept.add(task)
        task.add_done_callback(done)

    def ask(self, question: Coroutine[Any, Any, T], *, within: float) -> "asyncio.Future[T]":
        """Ask, and return the answer to come. Whoever cancels it, or is cancelled while awaiting it, cancels the question.

        It raises:
            TimeoutError: there was none within `within` seconds.
            ConnectionError: we have ended, and nothing is asked any more; or the client library cancelled the question.
            Exception: whatever the question raised.
        """
        if self._ended:
            question.close()
            return failed(ConnectionError("nothing is asked any more"))
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        task = asyncio.create_task(question)

        def expire() -> None:
            if not answer.done():
                answer.set_exception(TimeoutError(f"no answer within {within:.3g} s"))

        def hand_on(task: asyncio.Task[T]) -> None:
            self._kept.discard(task)
            error = None if task.cancelled() else task.exception()
            if answer.done():
                pass  # nobody waits for it any more
            elif task.cancelled():  # not by us: some libraries do on a lost connection
                answer.set_exception(ConnectionError("the question was cancelled by the client library"))
            elif error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(task.result())

        def leave(_: object) -> None:
            timer.cancel()
            task.cancel()  # of no effect if it has ended

        timer = loop.call_later(within, expire)
        self._kept.add(task)
        task.add_done_callback(hand_on)
        answer.add_done_callback(leave)
        return answer

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


def failed(error: Exception) -> "asyncio.Future[Any]":
    """An answer that will not come. It may be dropped without a word."""
    answer = asyncio.get_running_loop().create_future()
    answer.set_exception(error)
    answer.exception()  # so that the loop does not miss anybody who would have awaited it
    return answer
