"""Ending the process in time, whatever threads are stuck in."""

import asyncio
import atexit
import os
import queue
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

END_WITHIN = 1.0
"""Seconds for the interpreter to end, once all work is done."""


class Watchdog:
    """A thread that ends the process when its time has come, even where the event loop hangs.

    It needs the interpreter's lock now and then, so native code that never gives it back holds it, too.
    """

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[tuple[float, int]] = queue.SimpleQueue()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def exit_within(self, seconds: float, status: int) -> None:
        """End the process in so many seconds, if it has not ended by then. Signal handlers may call it.

        Called again, the earlier time counts, and the later status.
        """
        self._orders.put((time.monotonic() + seconds, status))

    def _watch(self) -> None:
        at, status = self._orders.get()
        while True:
            try:
                earlier, status = self._orders.get(timeout=max(0, at - time.monotonic()))
            except queue.Empty:
                os._exit(status)
            at = min(at, earlier)


def run(
    work: Coroutine[Any, Any, T],
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> T:
    """Run `work` in an event loop, and leave the loop's end to the end of the process.

    `asyncio.run` would wait for its threads first, and one that is stuck in a DNS lookup takes as long as that likes.
    """
    runner = asyncio.Runner(loop_factory=loop_factory)
    atexit.register(runner.close)
    return runner.run(work)


def end(status: int) -> NoReturn:
    """End the process, and do not wait for its threads any longer than `END_WITHIN`."""
    Watchdog().exit_within(END_WITHIN, status)
    raise SystemExit(status)
