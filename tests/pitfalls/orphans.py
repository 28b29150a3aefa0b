"""The connections that aio-pika has lost: only the event loop still knows their tasks."""

import asyncio
from collections.abc import Iterator
from typing import Any

from aio_pika import RobustConnection


def orphans() -> Iterator[tuple["asyncio.Task[Any]", RobustConnection]]:
    """Each task that connects or reconnects, and its connection: found in its frame, for nobody else has it."""
    for task in asyncio.all_tasks():
        coroutine: Any = task.get_coro()
        if coroutine.__qualname__.endswith("__connection_factory"):
            yield task, coroutine.cr_frame.f_locals["self"]
