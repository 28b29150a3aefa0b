"""Connections that aio-pika has lost: only their tasks still refer to them."""

import asyncio
from collections.abc import Iterator
from typing import Any

from aio_pika import RobustConnection


def orphaned_connections() -> Iterator[tuple["asyncio.Task[Any]", RobustConnection]]:
    """Yield each task that connects or reconnects, with its connection, which is taken from the task's frame."""
    for task in asyncio.all_tasks():
        coroutine: Any = task.get_coro()
        if coroutine.__qualname__.endswith("__connection_factory"):
            yield task, coroutine.cr_frame.f_locals["self"]
