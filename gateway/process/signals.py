"""The stop signals SIGINT, SIGTERM and SIGHUP: the first signal requests the shutdown, the second one forces it."""

import asyncio
import contextlib
import signal
from collections.abc import Generator

from gateway.process.exit_status import ExitStatus
from gateway.process.watchdog import Watchdog

FORCE_TIMEOUT = 0.5


def stop_signals() -> "tuple[signal.Signals, ...]":
    """Return the signals that stop the process: SIGINT, SIGTERM and, unless it is ignored as under `nohup`, SIGHUP."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return signal.SIGINT, signal.SIGTERM
    return signal.SIGINT, signal.SIGTERM, signal.SIGHUP


class ShutdownSignals:
    """Resolves a future at each of the first two stop signals. A watchdog ends the process if it does not end in time.

    SIGHUP only requests the shutdown: a terminal that is closed may send it twice, from the kernel and from the shell.

    Attributes:
        requested: done after the first signal. The process has the shutdown timeout to end.
        forced: done after the second signal, unless that is SIGHUP. The process has `FORCE_TIMEOUT` seconds to end.
    """

    def __init__(self, *, shutdown_timeout: float) -> None:
        loop = asyncio.get_running_loop()
        self.requested: asyncio.Future[None] = loop.create_future()
        self.forced: asyncio.Future[None] = loop.create_future()
        self._shutdown_timeout = shutdown_timeout
        self._watchdog = Watchdog()

    @contextlib.contextmanager
    def installed(self) -> Generator[None]:
        """Handle stop signals inside the block, and ignore them afterwards: by then everything is released."""
        loop = asyncio.get_running_loop()
        received: list[int] = []

        def handle(number: int, _frame: object) -> None:
            # A signal handler runs between any two instructions, so it calls only functions that are safe there.
            if received and number == signal.SIGHUP:
                return
            received.append(number)
            if len(received) == 1:
                self._watchdog.exit_within(self._shutdown_timeout, ExitStatus.UNCLEAN)
                loop.call_soon_threadsafe(_resolve, self.requested)
            else:
                self._watchdog.exit_within(FORCE_TIMEOUT, ExitStatus.FORCED)
                loop.call_soon_threadsafe(_resolve, self.forced)

        numbers = stop_signals()
        for number in numbers:
            signal.signal(number, handle)
        try:
            yield
        finally:
            for number in numbers:
                signal.signal(number, signal.SIG_IGN)


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
