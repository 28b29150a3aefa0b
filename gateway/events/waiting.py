"""Waiting: for an event or until a time has passed, and longer with each attempt."""

import asyncio
import random
from contextlib import suppress

FIRST = 0.05
LONGEST = 1.0
"""Seconds."""


class Backoff:
    """Doubles with each attempt, up to a second, and differs from process to process so that not all come at once."""

    def __init__(self) -> None:
        self._next = FIRST
        self.attempts = 0

    def longer(self) -> float:
        """Seconds to wait now."""
        self.attempts += 1
        wait, self._next = self._next, min(self._next * 2, LONGEST)
        return wait * random.uniform(0.5, 1)  # noqa: S311 - nobody has to guess it

    def reset(self) -> None:
        self._next, self.attempts = FIRST, 0


async def until(event: asyncio.Event, *, within: float) -> None:
    """Return when the event is set, or after so many seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(within):
            await event.wait()
