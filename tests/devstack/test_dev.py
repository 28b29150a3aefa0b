"""How `gateway dev` ends if its gateway or its worker does not run."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from gateway.devstack import dev, ports
from gateway.devstack.dev import first_exit_status, wait_until_ready
from gateway.devstack.server import DevstackError

RUNNING = "import time; time.sleep(600)"


@pytest.fixture
def running() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does not exit."""
    process = start(RUNNING)
    yield process
    process.kill()
    process.wait()


def start(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code])  # noqa: S603 - our own code


@pytest.mark.parametrize(
    ("code", "expected", "reason"),
    [
        ("raise SystemExit(3)", 3, "exited with status 3"),
        ("raise SystemExit(0)", 0, "exited with status 0"),
        ("import os; os.kill(os.getpid(), 9)", 137, "was killed by signal 9 (Killed)"),
    ],
    ids=["failed", "succeeded", "killed"],
)
async def test_first_exit_is_reported(running: subprocess.Popen[bytes], code: str, expected: int, reason: str) -> None:
    """The report names the process that has exited and the reason. The status is the one that a shell shows."""
    lines: list[str] = []

    with start(code) as worker:
        status = await first_exit_status({"gateway": running, "worker": worker}, report=lines.append)

    assert status == expected
    assert lines == [f"worker {reason}: stopping the others"]


async def test_gateway_that_is_never_ready(running: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that runs and does not become ready is an error with a message, not an endless wait."""
    monkeypatch.setattr(dev, "START_TIMEOUT", 0.2)

    with ports.reserve() as unused, pytest.raises(DevstackError) as raised:
        await wait_until_ready(f"http://127.0.0.1:{unused.getsockname()[1]}/readyz", running)

    assert str(raised.value) == "gateway is not ready after 0.2 s; its output has the reason"


async def test_gateway_that_exits(running: subprocess.Popen[bytes]) -> None:
    """The wait ends with the gateway."""
    running.kill()
    running.wait()

    assert not await wait_until_ready("http://127.0.0.1:9/readyz", running)
