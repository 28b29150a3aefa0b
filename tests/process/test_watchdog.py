"""The end of the process: in time, with the right status, whatever threads are stuck in."""

import subprocess
import sys

import pytest

from tests.support.waiting import TIMEOUT

STUCK = """
import asyncio, threading
from gateway.process.watchdog import EXIT_TIMEOUT, Watchdog, exit_process, run_without_waiting_for_threads

stuck = threading.Event()

async def leave_a_thread_stuck():
    asyncio.get_running_loop().run_in_executor(None, stuck.wait)  # as a DNS lookup would be
    print("worked", flush=True)
"""


def process(code: str) -> tuple[int, str]:
    """Run the code after `STUCK`; return exit status and output.

    The thread is stuck forever, and the later of two times is an hour: a process that waits for either does not end in time.
    """
    done = subprocess.run(  # noqa: S603 - ours
        [sys.executable, "-W", "error", "-c", STUCK + code],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_a_stuck_thread_does_not_hold_the_end() -> None:
    assert process("run(leave_a_thread_stuck()); end(3)") == (3, "worked\n")


def test_where_nothing_is_stuck_it_ends_at_once_and_closes_the_loop() -> None:
    assert process("run(asyncio.sleep(0)); print('done'); end(0)") == (0, "done\n")


@pytest.mark.parametrize(
    ("orders", "status"),
    [
        ("exit_within(0.1, 4)", 4),
        ("exit_within(3600, 4); watchdog.exit_within(0.1, 130)", 130),
        ("exit_within(0.1, 4); watchdog.exit_within(3600, 130)", 130),
    ],
    ids=["one", "the second is earlier", "the second is later"],
)
def test_the_earlier_time_counts_and_the_later_status(orders: str, status: int) -> None:
    ended, _ = process(f"watchdog = Watchdog(); watchdog.{orders}; stuck.wait()")

    assert ended == status
