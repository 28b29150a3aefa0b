"""`gateway dev` in a real terminal: everything comes up, and everything is gone when the person who started it is."""

import os
import select
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest

from gateway.devstack import ports
from gateway.devstack.dev import EXAMPLE
from tests.support.waiting import TIMEOUT, wait_until

CTRL_C = b"\x03"

OUTPUT_LOST = 120
"""Python's status when its last words could not be written: the window had been closed."""


class Terminal:
    """A terminal in which one command runs."""

    def __init__(self, command: str, folder: Path) -> None:
        self.output = b""
        self._ours, theirs = os.openpty()
        # The leader of a session gets the first terminal that it opens; Ctrl-C and the end of the terminal reach it then.
        opened = f"exec 0<>{os.ttyname(theirs)} >&0 2>&0; exec {command}"
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder), "TERM": "xterm"}
        self.process = subprocess.Popen(  # noqa: S603 - ours
            ["/bin/sh", "-c", opened], env=environment, start_new_session=True
        )
        self._theirs = theirs
        self._closed = threading.Event()
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self) -> None:
        while not self._closed.is_set():
            readable, _, _ = select.select([self._ours], [], [], 0.05)
            if readable:
                self.output += os.read(self._ours, 4096)

    def press(self, key: bytes) -> None:
        os.write(self._ours, key)

    def close(self) -> None:
        """Close the window. The kernel tells the session with SIGHUP, and whatever is printed then fails."""
        if not self._closed.is_set():
            self._closed.set()
            self._reading.join()  # as long as somebody reads, it is not closed
            os.close(self._theirs)
            os.close(self._ours)

    async def ended(self) -> int:
        try:
            await wait_until(lambda: self.process.poll() is not None, "it has ended", timeout=2 * TIMEOUT)
        except AssertionError as error:
            error.add_note(self.output.decode())
            raise
        return self.process.returncode


@pytest.fixture
def port() -> int:
    """A free port that no client is given meanwhile."""
    with ports.reserve() as free:
        number: int = free.getsockname()[1]
        return number


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the servers of this test have their folders. They run as another user, who has to get through.

    It is none of pytest's own: whoever starts another session of it shuts those again.
    """
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
async def terminal(folder: Path, port: int) -> AsyncIterator[Terminal]:
    """A terminal in which `gateway dev` is ready."""
    terminal = Terminal(shlex.join([sys.executable, "-m", "gateway", "dev", "--port", str(port)]), folder)

    async def is_ready() -> bool:
        assert terminal.process.poll() is None, terminal.output.decode()
        return b"Ctrl-C ends it." in terminal.output

    try:
        await wait_until(is_ready, "it is ready", timeout=4 * TIMEOUT)
        yield terminal
    finally:
        terminal.close()
        terminal.process.kill()
        terminal.process.wait()

        async def nothing_is_left() -> bool:
            return not stacks(folder)

        await wait_until(nothing_is_left, "the reaper has cleaned up")


def stacks(folder: Path) -> list[Path]:
    """The folders of stacks that are up, or were left behind."""
    return list(folder.glob("gateway-devstack-*"))


End = Callable[[Terminal], None]


@pytest.mark.parametrize(
    "end",
    [lambda terminal: terminal.press(CTRL_C), lambda terminal: terminal.press(CTRL_C * 3), Terminal.close],
    ids=["Ctrl-C", "Ctrl-C three times", "the window is closed"],
)
async def test_it_serves_until_the_person_leaves_and_leaves_nothing(
    terminal: Terminal, folder: Path, port: int, end: End
) -> None:
    async with httpx.AsyncClient(timeout=TIMEOUT) as client:
        brief = (await client.get(f"http://127.0.0.1:{port}{EXAMPLE}")).json()
        observations = f"http://127.0.0.1:{port}/v1/places/2657896"
        created = await client.post(observations + "/observations", json={"temperature_c": 12.5, "condition": "rain"})
        assert created.status_code == 201

        async def counted() -> bool:
            return bool((await client.get(observations)).json()["observation_count"])

        await wait_until(counted, "the worker has counted it")
    assert brief["complete"] is True
    assert len(stacks(folder)) == 1
    end(terminal)

    assert await terminal.ended() in (0, OUTPUT_LOST)
    assert stacks(folder) == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
