"""An answer that is waited for until a deadline, more than once if need be."""

import asyncio
import time
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Asked(Generic[T]):
    """A future, and how long it took. Waiting in vain leaves it as it is: it may still come."""

    def __init__(self, answer: "asyncio.Future[T]", began: float) -> None:
        """Take the time from `began` (`time.monotonic()`)."""
        self._answer = answer
        self._began = began
        self._ended: float | None = None
        self._given_up = False
        answer.add_done_callback(self._on_done)

    async def until(self, by: float) -> T:
        """Return the answer, until `by` (`time.monotonic()`).

        Raises:
            TimeoutError: it has not come by then.
            Exception: whatever it is instead of an answer.
        """
        if not self._answer.done():
            await self._wait(by - time.monotonic())
        if self._given_up or not self._answer.done():
            raise TimeoutError("no answer within its time")
        if self._answer.cancelled():  # not by us: whoever would have answered is being stopped
            raise ConnectionError("nobody answers any more")
        return self._answer.result()

    async def _wait(self, seconds: float) -> None:
        """Like `asyncio.wait`, for half of what that takes: each brief waits here."""
        loop = asyncio.get_running_loop()
        waiting = loop.create_future()

        def notify(_: object = None) -> None:
            if not waiting.done():
                waiting.set_result(None)

        timer = loop.call_later(max(0, seconds), notify)
        self._answer.add_done_callback(notify)
        try:
            await waiting
        finally:
            timer.cancel()
            self._answer.remove_done_callback(notify)

    async def or_until(self, other: "Asked[Any]", by: float) -> None:
        """Wait until an answer has come here or there, until `by`; one that has failed is not waited for."""
        coming = {one._answer for one in (self, other) if not one._answer.done()}  # noqa: SLF001 - of our own kind
        if not self.has_come and coming:
            await asyncio.wait(coming, timeout=max(0, by - time.monotonic()), return_when=asyncio.FIRST_COMPLETED)

    @property
    def has_come(self) -> bool:
        """Whether there is an answer, and no failure."""
        return self._answer.done() and not self._answer.cancelled() and self._answer.exception() is None

    @property
    def is_open(self) -> bool:
        """Whether it may still come."""
        return not self._answer.done()

    @property
    def answer(self) -> T:
        """The answer, once it has come."""
        return self._answer.result()

    @property
    def took(self) -> float:
        """Seconds until it came, or until now."""
        return (self._ended or time.monotonic()) - self._began

    def give_up(self) -> None:
        """Say that nobody waits any more, unless it has come: for whoever still does, its time is up."""
        if self._answer.cancel():
            self._given_up = True

    def _on_done(self, _: object) -> None:
        self._ended = time.monotonic()
