"""asyncio: a timeout does not end a thread, such as a DNS lookup, and `asyncio.run` waits for the thread at its end."""

import asyncio
import atexit
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]


async def look_up(seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            await asyncio.to_thread(time.sleep, seconds)


def broken(seconds: float) -> None:
    asyncio.run(look_up(seconds))


def fixed(seconds: float) -> None:
    runner = asyncio.Runner()
    atexit.register(runner.close)  # this waits for the thread
    runner.run(look_up(seconds))
    watchdog = threading.Timer(0.2, os._exit, [3])
    watchdog.daemon = True
    watchdog.start()


def test_asyncio_run_waits_for_thread() -> None:
    """`asyncio.run` returns when the thread ends, not when the coroutine does."""
    started = time.monotonic()
    broken(1)
    assert time.monotonic() - started >= 1, "fixed upstream: asyncio.run no longer waits for threads"


def test_watchdog_ends_process_in_time() -> None:
    """A watchdog ends the process while the thread still runs."""
    code = f"from tests.pitfalls.{Path(__file__).stem} import fixed; fixed(60)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=30, check=False)  # noqa: S603 - our own code
    assert done.returncode == 3
