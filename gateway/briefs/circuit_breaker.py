"""Leaving a backend alone that keeps failing, and noticing when it is back."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from gateway.concurrency import failed_future

T = TypeVar("T")

FAILURES = 5
"""As many in a row, and the backend is left alone."""

PROBE_EVERY = 0.5
"""Seconds between two probes. With a second for each, a backend that is back is asked again well within two."""


class CircuitOpenError(Exception):
    """The backend kept failing and is left alone for now."""


class CircuitBreaker:
    """Lets calls through until too many in a row have failed; then raises at once, and probes in the background.

    Requests do not probe: one would have to wait for a backend that is probably dead, and whoever came meanwhile would
    be told that it is dead when it is not any more.
    """

    def __init__(
        self,
        background: Callable[[Coroutine[Any, Any, None]], object],
        *,
        counts: Callable[[Exception], bool] = lambda _: True,
    ) -> None:
        """Begin closed.

        Args:
            background: runs the probing to its end (see `Questions.keep`).
            counts: whether an error says that the backend is in trouble, and not only that this call was wrong.
        """
        self._background = background
        self._counts = counts
        self._failures = 0
        self._wanted: Callable[[], asyncio.Future[Any]] | None = None
        self.is_open = False
        """Whether the backend is left alone."""

    def call(self, ask: Callable[[], "asyncio.Future[T]"]) -> "asyncio.Future[T]":
        """Ask, for an answer that comes, or fails, in a time of its own. It raises `CircuitOpenError` if nothing was asked."""
        if self.is_open:
            return failed_future(self.refuse(ask))
        return self._try(ask)

    def refuse(self, ask: Callable[[], "asyncio.Future[Any]"]) -> CircuitOpenError:
        """Say that a question is not asked now. The next probe asks it: another one may be what the backend cannot answer."""
        self._wanted = ask
        return CircuitOpenError("it kept failing and is left alone for now")

    def _try(self, ask: Callable[[], "asyncio.Future[T]"]) -> "asyncio.Future[T]":
        answer = ask()
        answer.add_done_callback(partial(self._judge, ask))
        return answer

    def _judge(self, ask: Callable[[], "asyncio.Future[Any]"], answer: "asyncio.Future[Any]") -> None:
        if answer.cancelled():
            return  # whoever asked has gone: that says nothing
        error = answer.exception()
        if isinstance(error, Exception) and self._counts(error):
            self._fail(ask)
        else:
            self._failures = 0
            self.is_open = False

    def _fail(self, ask: Callable[[], "asyncio.Future[Any]"]) -> None:
        self._failures += 1
        if self._failures >= FAILURES and not self.is_open:
            self.is_open = True
            self._wanted = ask
            self._background(self._probe())

    async def _probe(self) -> None:
        """Ask the question that was wanted last, again and again, until the backend answers."""
        while self.is_open:
            await asyncio.sleep(PROBE_EVERY * random.uniform(0.8, 1))  # noqa: S311 - jitter is no secret
            if self._wanted is not None:
                await asyncio.wait({self._try(self._wanted)})
