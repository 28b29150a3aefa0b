"""The processes that a test starts are ended, even if pytest is killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.devstack import reaper
from tests.devstack.process_probes import alive, command
from tests.end_to_end.conftest import StartProcess
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]

PROCESS_TEST = "tests/pitfalls/test_uvicorn_signal_during_startup.py::test_startup_ignores_signals"


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def other_pytest(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another pytest process that runs one test, with its own folder for temporary files."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    arguments = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", PROCESS_TEST]
    with subprocess.Popen(  # noqa: S603 - our own code
        arguments, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    ) as process:
        yield process
        process.kill()


async def test_killed_pytest_leaves_no_process(other_pytest: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """If pytest is killed, the reaper ends the process of its test, and removes the data folder."""
    programs: list[int] = []

    def program_started() -> bool:
        programs[:] = [
            child for child in children(other_pytest.pid) if any("broken()" in word for word in command(child))
        ]
        return bool(programs)

    await wait_until(program_started, "pytest has started the process")
    other_pytest.kill()

    try:
        await wait_until(lambda: not any(map(alive, programs)), "the process has ended")
    finally:
        for pid in filter(alive, programs):
            os.kill(pid, signal.SIGKILL)
    await wait_until(lambda: not list(tmp_path.glob("gateway-devstack-*")), "the data folder is removed")


async def test_gateway_process_belongs_to_the_stack(start: StartProcess, devstack_folder: Path) -> None:
    """The reaper finds a gateway process by the folder of the devstack."""
    process = start("serve", "--port", "0")

    # While a process replaces its program, it has no environment for a moment.
    await wait_until(lambda: process.pid in reaper.find_processes(devstack_folder), "the reaper finds the process")
