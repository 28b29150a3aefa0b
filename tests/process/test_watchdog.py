"""The watchdog and the end of the process: in time and with the right status, even if a thread hangs."""

import subprocess
import sys

import pytest

from tests.support.waiting import TIMEOUT

SETUP = """
import asyncio, threading
from gateway.process.watchdog import Watchdog, exit_process, run_without_waiting_for_threads

never_set = threading.Event()

async def leave_a_hanging_thread():
    asyncio.get_running_loop().run_in_executor(None, never_set.wait)  # as a DNS lookup does
    print("done", flush=True)
"""


def run(code: str) -> tuple[int, str]:
    """Run the code after `SETUP` in a new process; return its exit status and its output.

    The thread hangs forever, and the later of two deadlines is in an hour. A process that waits for either times out.
    """
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-W", "error", "-c", SETUP + code],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_exit_does_not_wait_for_threads() -> None:
    """A thread that hangs does not keep the process from exiting."""
    code = "run_without_waiting_for_threads(leave_a_hanging_thread()); exit_process(3)"

    assert run(code) == (3, "done\n")


def test_exit_closes_the_loop() -> None:
    """Without hanging threads the process exits immediately, and closes its event loop: there is no ResourceWarning."""
    code = "run_without_waiting_for_threads(asyncio.sleep(0)); print('done'); exit_process(0)"

    assert run(code) == (0, "done\n")


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ("exit_within(0.1, 4)", 4),
        ("exit_within(3600, 4); watchdog.exit_within(0.1, 130)", 130),
        ("exit_within(0.1, 4); watchdog.exit_within(3600, 130)", 130),
    ],
    ids=["one deadline", "second is earlier", "second is later"],
)
def test_earliest_deadline_and_last_status(calls: str, expected: int) -> None:
    """After several calls, the earliest deadline and the last status count."""
    status, _ = run(f"watchdog = Watchdog(); watchdog.{calls}; never_set.wait()")

    assert status == expected
