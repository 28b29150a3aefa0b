"""`gateway dev` in a real terminal: all servers start, can be controlled, and end with Ctrl-C or with the terminal."""

import asyncio
import json
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import httpx
import pytest

from gateway.devstack import ports
from gateway.devstack.dev import EXAMPLE
from tests.support.waiting import TIMEOUT, wait_until

CTRL_C = b"\x03"

PLACE = EXAMPLE.removesuffix("/brief")
NAMES = ("gateway", "worker ")  # as in the prefixes

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


def dev_command(port: int) -> list[str]:
    return [sys.executable, "-m", "gateway", "dev", "--port", str(port)]


@pytest.fixture
def second(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A `gateway dev` that is starting, on any port. It writes to the file `output` in the folder."""
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own code
            dev_command(0), env={"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder)}, stdout=output
        )
    yield process
    process.kill()
    process.wait()


@pytest.fixture
async def terminal(folder: Path, port: int) -> AsyncIterator[Terminal]:
    """A terminal that runs `gateway dev`, after it is ready."""
    terminal = Terminal(shlex.join(dev_command(port)), folder)

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


def assert_nothing_is_left(folder: Path, port: int) -> None:
    assert stack_folders(folder) == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


class DevClient:
    """A client of the gateway that `gateway dev` runs on a port."""

    def __init__(self, port: int) -> None:
        self._http = httpx.AsyncClient(timeout=4 * TIMEOUT, base_url=f"http://127.0.0.1:{port}")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def control(self, server: str, action: str) -> str:
        """Do an action, and return the status of the server after it."""
        response = await self._http.post(f"/dev/servers/{server}/{action}")
        assert response.status_code == 200, response.text
        return str(response.json()["status"])

    async def brief(self) -> str:
        """Return the incomplete sections of the brief, `complete`, or the status of another response."""
        response = await self._http.get(EXAMPLE)
        if response.status_code != 200:
            return str(response.status_code)
        return str(response.headers.get("Gateway-Incomplete", "complete"))

    async def report(self) -> None:
        created = await self._http.post(f"{PLACE}/observations", json={"temperature_c": 12.5, "condition": "rain"})
        assert created.status_code == 201

    async def observation_count(self) -> int:
        return int((await self._http.get(PLACE)).json()["observation_count"])


@pytest.fixture
async def dev(terminal: Terminal, port: int) -> AsyncIterator[DevClient]:
    """A client of the `gateway dev` on the terminal."""
    del terminal  # requested, so that it is ready
    async with DevClient(port) as client:
        yield client


async def test_servers_are_controlled(dev: DevClient, terminal: Terminal, folder: Path, port: int) -> None:
    """Suspended and killed servers fail their part of the service. After a restart they have their data, and all recovers.
    Ctrl-C leaves nothing, even of a server that is suspended or killed.
    """

    async def lacks_popularity() -> bool:
        return "popularity;" in await dev.brief()

    async def is_complete() -> bool:
        return await dev.brief() == "complete"

    async def both_are_counted() -> bool:
        return await dev.observation_count() == 2

    await dev.report()
    assert await dev.control("rabbitmq", "kill") == "stopped"
    restart = asyncio.create_task(dev.control("rabbitmq", "restart"))
    assert await dev.control("redis", "suspend") == "suspended"
    await wait_until(lacks_popularity, "the brief has no popularity")
    assert await dev.control("redis", "resume") == "running"
    assert await dev.control("postgresql", "kill") == "stopped"
    assert await dev.brief() == "503"
    assert await dev.control("postgresql", "restart") == "running"
    await wait_until(is_complete, "the brief is complete again")
    assert await restart == "running"
    await dev.report()
    await wait_until(both_are_counted, "the worker has counted both observations")

    assert await dev.control("redis", "suspend") == "suspended"
    assert await dev.control("postgresql", "kill") == "stopped"
    terminal.press(CTRL_C)
    assert await terminal.exit_status() == 0
    assert_nothing_is_left(folder, port)


@pytest.mark.long
async def test_three_interrupts(dev: DevClient, terminal: Terminal, folder: Path, port: int) -> None:
    """Further interrupts do not disturb the stop."""
    assert await dev.brief() == "complete"
    terminal.press(CTRL_C * 3)

    assert await terminal.exit_status() == 0
    assert_nothing_is_left(folder, port)


async def test_two_at_once(
    second: subprocess.Popen[bytes], dev: DevClient, terminal: Terminal, folder: Path, port: int
) -> None:
    """Two run at the same time, one of them without a terminal. The page is the first line of each, and each line of the
    gateway and the worker has its name. They log for people on the terminal, and JSON elsewhere. One ends when its terminal
    is closed, and the other one with an interrupt, without losing a line. Nothing is left.
    """
    output = folder / "output"
    await wait_until(lambda: "Ctrl-C ends it." in output.read_text(), "the second one is ready", timeout=4 * TIMEOUT)
    assert len(stack_folders(folder)) == 2
    assert await dev.brief() == "complete"
    terminal.close()
    second.send_signal(signal.SIGINT)
    assert await terminal.exit_status() in (0, OUTPUT_LOST)
    await wait_until(lambda: second.poll() is not None, "the second one has ended", timeout=2 * TIMEOUT)
    assert second.returncode == 0
    assert_nothing_is_left(folder, port)

    lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal.output.decode()).splitlines()
    assert lines[0] == f"page: http://127.0.0.1:{port}/ (in a few seconds)"
    assert [line for line in lines if re.fullmatch(r"gateway \| \S+Z \[info +\] serving .*", line)] != []
    assert [line for line in lines if re.fullmatch(r"worker  \| \S+Z \[info +\] working .*", line)] != []
    assert [line for line in lines if "] " in line and not re.match(r"gateway \| |worker  \| ", line)] == []
    assert b"\x1b[36mgateway | \x1b[0m" in terminal.output
    lines = output.read_text().splitlines()
    events = {
        name: [json.loads(line[10:])["event"] for line in lines if line.startswith(f"{name} | {{")] for name in NAMES
    }
    assert re.fullmatch(r"page: http://127\.0\.0\.1:\d+/ \(in a few seconds\)", lines[0])
    assert [events[name][-1] for name in NAMES] == ["stopped", "stopped"]
    assert [line for line in lines if line.startswith("{")] == []
