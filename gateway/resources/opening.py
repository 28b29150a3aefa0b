"""How a resource opens: what passes by itself is tried again, what a person must mend fails at once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import stamina

T = TypeVar("T")


class PermanentError(Exception):
    """Asking again would not help; the message names the setting and says what to do, and holds no secret."""


async def opened(attempt: Callable[[], Awaitable[T]], *, transient: Callable[[Exception], bool]) -> T:
    """Await `attempt()` until it succeeds, with backoff and jitter, as long as its failure is transient.

    There is no limit in here: the start deadline of the entry is the limit. What is cancelled by it raises
    `CancelledError` from the last failure, so that the deadline's error can say what was in the way.
    """
    last: Exception | None = None
    try:
        async for retry in stamina.retry_context(
            on=transient, attempts=None, timeout=None, wait_initial=0.05, wait_max=1.0, wait_jitter=0.05
        ):
            with retry:
                try:
                    return await attempt()
                except Exception as error:
                    last = error
                    raise
    except asyncio.CancelledError as cancelled:
        raise cancelled from last
    raise AssertionError("unreachable: the loop ends by returning or raising")
