"""What a test has started ends with it, however that ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.devstack import reaper
from tests.devstack.process_probes import alive, command
from tests.end_to_end.conftest import Start
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]

ONE_THAT_HEARS_NO_SIGNAL = "tests/pitfalls/test_uvicorn_signal_during_startup.py::test_startup_ignores_signals"


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def killed_later(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A pytest that runs one test, with a folder for temporary files of its own."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    run = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", ONE_THAT_HEARS_NO_SIGNAL]
    with subprocess.Popen(run, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, start_new_session=True) as process:  # noqa: S603 - ours
        yield process
        process.kill()


async def test_a_process_of_a_test_does_not_outlive_a_pytest_that_is_killed(
    killed_later: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    started: list[int] = []

    def has_started_one() -> bool:
        started[:] = [
            child for child in children(killed_later.pid) if any("broken()" in word for word in command(child))
        ]
        return bool(started)

    await wait_until(has_started_one, "pytest has started the process")
    killed_later.kill()

    try:
        await wait_until(lambda: not any(map(alive, started)), "the process has ended")
    finally:
        for pid in filter(alive, started):
            os.kill(pid, signal.SIGKILL)
    await wait_until(lambda: not list(tmp_path.glob("gateway-devstack-*")), "the data folder is removed")


async def test_a_gateway_of_a_test_belongs_to_the_stack(start: Start, devstack_folder: Path) -> None:
    process = start("serve", "--port", "0")

    # Between its old program and its new one a process has no environment, for a moment.
    await wait_until(
        lambda: process.pid in reaper.find_processes(devstack_folder), "the process is found by the folder of the stack"
    )
