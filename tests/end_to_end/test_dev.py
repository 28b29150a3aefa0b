"""`gateway dev` in a real terminal: all servers start, and all end with Ctrl-C or with the terminal."""

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

OUTPUT_LOST = 120  # Python's exit status if it cannot flush its output, because the terminal is closed


class Terminal:
    """A terminal that runs one command."""

    def __init__(self, command: str, folder: Path) -> None:
        self.output = b""
        self._controller, self._terminal = os.openpty()
        # The first terminal that a session leader opens controls its session: Ctrl-C and a hangup send it a signal.
        script = f"exec 0<>{os.ttyname(self._terminal)} >&0 2>&0; exec {command}"
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder), "TERM": "xterm"}
        self.process = subprocess.Popen(  # noqa: S603 - our own code
            ["/bin/sh", "-c", script], env=environment, start_new_session=True
        )
        self._closed = threading.Event()
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self) -> None:
        while not self._closed.is_set():
            readable, _, _ = select.select([self._controller], [], [], 0.05)
            if readable:
                self.output += os.read(self._controller, 4096)

    def press(self, key: bytes) -> None:
        os.write(self._controller, key)

    def close(self) -> None:
        """Close the terminal, as a closed window does. The session gets SIGHUP, and its output fails from then on."""
        if not self._closed.is_set():
            self._closed.set()
            self._reading.join()  # a terminal that is being read stays open
            os.close(self._terminal)
            os.close(self._controller)

    async def exit_status(self) -> int:
        """Wait until the command has ended, and return its exit status."""
        try:
            await wait_until(lambda: self.process.poll() is not None, "the command has ended", timeout=2 * TIMEOUT)
        except AssertionError as error:
            error.add_note(self.output.decode())
            raise
        return self.process.returncode


@pytest.fixture
def port() -> int:
    """A free port, which the kernel does not assign to a client before the gateway binds it."""
    with ports.reserve() as free:
        number: int = free.getsockname()[1]
        return number


@pytest.fixture
def folder() -> Iterator[Path]:
    """The parent of the servers' data folders, which is readable for the user that runs the servers.

    It is not one of pytest's folders, because another pytest session makes these private again.
    """
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
async def terminal(folder: Path, port: int) -> AsyncIterator[Terminal]:
    """A terminal that runs `gateway dev`, after it is ready."""
    terminal = Terminal(shlex.join([sys.executable, "-m", "gateway", "dev", "--port", str(port)]), folder)

    async def is_ready() -> bool:
        assert terminal.process.poll() is None, terminal.output.decode()
        return b"Ctrl-C ends it." in terminal.output

    try:
        await wait_until(is_ready, "`gateway dev` is ready", timeout=4 * TIMEOUT)
        yield terminal
    finally:
        terminal.close()
        terminal.process.kill()
        terminal.process.wait()

        async def is_empty() -> bool:
            return not stack_folders(folder)

        await wait_until(is_empty, "the reaper has removed the folders")


def stack_folders(folder: Path) -> list[Path]:
    """Return the folders of stacks that run or were not removed."""
    return list(folder.glob("gateway-devstack-*"))


@pytest.mark.parametrize(
    "stop",
    [
        pytest.param(lambda terminal: terminal.press(CTRL_C), id="Ctrl-C"),
        pytest.param(lambda terminal: terminal.press(CTRL_C * 3), id="Ctrl-C three times", marks=pytest.mark.long),
        pytest.param(Terminal.close, id="terminal closed"),
    ],
)
async def test_serves_until_it_is_stopped(
    terminal: Terminal, folder: Path, port: int, stop: Callable[[Terminal], None]
) -> None:
    """`gateway dev` serves complete briefs and counts observations. After Ctrl-C or a closed terminal nothing is left."""
    async with httpx.AsyncClient(timeout=TIMEOUT) as client:
        brief = (await client.get(f"http://127.0.0.1:{port}{EXAMPLE}")).json()
        place_url = f"http://127.0.0.1:{port}/v1/places/2657896"
        created = await client.post(place_url + "/observations", json={"temperature_c": 12.5, "condition": "rain"})
        assert created.status_code == 201

        async def counted() -> bool:
            return bool((await client.get(place_url)).json()["observation_count"])

        await wait_until(counted, "the worker has counted the observation")
    assert brief["complete"] is True
    assert len(stack_folders(folder)) == 1
    stop(terminal)

    assert await terminal.exit_status() in (0, OUTPUT_LOST)
    assert stack_folders(folder) == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
