"""Ends the process in time, even if a thread hangs."""

import asyncio
import atexit
import os
import queue
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

EXIT_TIMEOUT = 1.0


class Watchdog:
    """A thread that ends the process at a deadline, even if the event loop hangs.

    The thread needs the GIL from time to time. Native code that never releases the GIL blocks it, too.
    """

    def __init__(self) -> None:
        self._deadlines: queue.SimpleQueue[tuple[float, int]] = queue.SimpleQueue()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def exit_within(self, seconds: float, status: int) -> None:
        """End the process with `status` after `seconds`, unless it ends earlier. Safe in a signal handler.

        After several calls, the earliest deadline and the last status count.
        """
        self._deadlines.put((time.monotonic() + seconds, status))

    def _watch(self) -> None:
        deadline, status = self._deadlines.get()
        while True:
            try:
                other_deadline, status = self._deadlines.get(timeout=max(0, deadline - time.monotonic()))
            except queue.Empty:
                os._exit(status)
            deadline = min(deadline, other_deadline)


def run_without_waiting_for_threads(
    coro: Coroutine[Any, Any, T],
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> T:
    """Run `coro` in an event loop and return its result. The loop is closed when the process ends, in `exit_process`.

    `asyncio.run` would first wait for the loop's threads, and a thread that hangs in a DNS lookup may take minutes.
    """
    runner = asyncio.Runner(loop_factory=loop_factory)
    atexit.register(runner.close)
    return runner.run(coro)


def exit_process(status: int) -> NoReturn:
    """End the process. Threads have `EXIT_TIMEOUT` seconds to end."""
    Watchdog().exit_within(EXIT_TIMEOUT, status)
    raise SystemExit(status)
