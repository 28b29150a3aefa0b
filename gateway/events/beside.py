"""Work beside an entry of the lifespan: a task that lives as long as the entry, and ends it when it breaks."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any


def nothing() -> None:
    """Do nothing."""


@asynccontextmanager
async def beside(
    work: Coroutine[Any, Any, None],
    *,
    name: str,
    stop: Callable[[], object] = nothing,
    within: float = 0,
    force: Callable[[], object] = nothing,
) -> AsyncGenerator[None]:
    """Do `work` while the block takes. What it raises ends the block, and leaves it.

    Args:
        work: to be done, until it is told to stop or is cancelled.
        name: of its task.
        stop: called in the end, to ask it to end.
        within: seconds that it has for that; then it is cancelled.
        force: called then, to let go of what would keep it.
    """
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(work, name=name)
            try:
                yield
            finally:
                try:
                    stop()
                    await asyncio.wait({task}, timeout=within)
                finally:
                    task.cancel()
                    force()
    except BaseExceptionGroup as several:
        if len(several.exceptions) > 1:
            raise
        (error,) = several.exceptions
        raise error from error.__cause__
