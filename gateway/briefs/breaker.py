"""Leaving a backend alone that keeps failing, and noticing when it is back."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

FAILURES = 5
"""As many in a row, and the backend is left alone."""

PROBE_EVERY = 0.5
"""Seconds between two probes. With a second for each, a backend that is back is asked again well within two."""


class OpenError(Exception):
    """The backend kept failing and is left alone for now."""


class Breaker:
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
        self._wanted: Callable[[], Awaitable[object]] | None = None
        self.is_open = False
        """Whether the backend is left alone."""

    async def call(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Await `ask()`, which has a deadline of its own.

        Raises:
            OpenError: it was not asked.
            Exception: whatever `ask()` raised.
        """
        if self.is_open:
            raise self.refuse(ask)
        return await self._try(ask)

    def refuse(self, ask: Callable[[], Awaitable[object]]) -> OpenError:
        """Say that a question is not asked now. The next probe asks it: another one may be what the backend cannot answer."""
        self._wanted = ask
        return OpenError("it kept failing and is left alone for now")

    async def _try(self, ask: Callable[[], Awaitable[T]]) -> T:
        try:
            answer = await ask()
        except Exception as error:
            if self._counts(error):
                self._fail(ask)
            else:
                self._succeed()
            raise
        self._succeed()
        return answer

    def _fail(self, ask: Callable[[], Awaitable[object]]) -> None:
        self._failures += 1
        if self._failures >= FAILURES and not self.is_open:
            self.is_open = True
            self._wanted = ask
            self._background(self._probe())

    def _succeed(self) -> None:
        self._failures = 0
        self.is_open = False

    async def _probe(self) -> None:
        """Ask the question that was wanted last, again and again, until the backend answers."""
        while self.is_open:
            await asyncio.sleep(PROBE_EVERY * random.uniform(0.8, 1))  # noqa: S311 - jitter is no secret
            if self._wanted is not None:
                with contextlib.suppress(Exception):
                    await self._try(self._wanted)
