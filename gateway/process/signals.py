"""How a process is stopped: by a signal, in a time that is known, and with a status that says how it went."""

import asyncio
import contextlib
import signal
from collections.abc import Generator

from gateway.process.watchdog import Watchdog

STOPPED = 0
"""Exit status after a clean stop by a signal."""
DIED = 1
"""A supervised entry died."""
START_FAILED = 3
"""The startup failed, or was stopped."""
UNCLEAN = 4
"""A close failed, or had to be aborted."""
FORCED = 130
"""A second signal forced the stop."""

FORCE_WITHIN = 0.5
"""Seconds from the second signal to the end of the process, whatever hangs."""


class ShutdownSignals:
    """SIGINT and SIGTERM: the first asks us to stop, within a time; the second forces it."""

    def __init__(self, within: float) -> None:
        """`within` is how many seconds the whole stop may take."""
        self.asked = asyncio.Event()
        self.forced = asyncio.Event()
        self._within = within
        self._watchdog = Watchdog()

    @contextlib.contextmanager
    def installed(self) -> Generator[None]:
        """Within the block they are ours; afterwards they are ignored.

        A handler runs between any two instructions of the process, so it does only what is safe anywhere.
        """
        loop = asyncio.get_running_loop()
        received: list[int] = []

        def handle(number: int, _frame: object) -> None:
            received.append(number)
            if len(received) == 1:
                self._watchdog.exit_within(self._within, UNCLEAN)
                loop.call_soon_threadsafe(self.asked.set)
            else:
                self._watchdog.exit_within(FORCE_WITHIN, FORCED)
                loop.call_soon_threadsafe(self.forced.set)

        numbers = (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            signal.signal(number, handle)
        try:
            yield
        finally:
            for number in numbers:  # all is released and the status is settled: nothing is left to stop
                signal.signal(number, signal.SIG_IGN)
