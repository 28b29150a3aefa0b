"""The last resort of a stop."""

import os
import queue
import threading
import time


class Watchdog:
    """A thread that ends the process when its time has come, even where the event loop hangs."""

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
