"""asyncio: a timeout does not end a thread, be it only in a DNS lookup, and `asyncio.run` waits for it at the end."""

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


def naive(seconds: float) -> None:
    asyncio.run(look_up(seconds))


def cure(seconds: float) -> None:
    runner = asyncio.Runner()
    atexit.register(runner.close)  # this waits for the thread
    runner.run(look_up(seconds))
    watchdog = threading.Timer(0.2, os._exit, [3])
    watchdog.daemon = True
    watchdog.start()


def test_it_ends_when_the_thread_does() -> None:
    began = time.monotonic()
    naive(1)
    assert time.monotonic() - began >= 1, "asyncio.run no longer waits for threads"


def test_a_watchdog_ends_the_process_all_the_same() -> None:
    code = f"from tests.pitfalls.{Path(__file__).stem} import cure; cure(60)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=30, check=False)  # noqa: S603 - ours
    assert done.returncode == 3
