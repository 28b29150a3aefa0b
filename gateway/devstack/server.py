"""The base class of all devstack servers: a process with its own folder and its own loopback ports."""

import asyncio
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import IO, ClassVar, Self

from gateway.devstack import ports, reaper
from gateway.devstack.folder import Reporter, silent

START_TIMEOUT = 120.0  # RabbitMQ takes 5 s on two idle cores
STOP_TIMEOUT = 10.0  # from the stop signal to SIGKILL
PROBE_TIMEOUT = 1.0
POLL_INTERVAL = 0.02
MAX_PORT_ATTEMPTS = 5
MAX_LOG_LINES = 15
MAX_LINE_LENGTH = 300


class ServerStatus(StrEnum):
    """The status of the main process of a server."""

    RUNNING = "running"
    SUSPENDED = "suspended"
    STOPPED = "stopped"


class DevstackError(Exception):
    """A server is not available. The message names it and the reason: the end of its log, or the package to install."""


class PortInUseError(DevstackError):
    """Another process listens on a port of the server."""


def find_program(name: str, *, package: str, folders: Sequence[Path] = ()) -> str:
    """Find a program in the folders, then on the PATH.

    Raises:
        DevstackError: the program is not installed; the message names the Debian package.
    """
    path = os.pathsep.join([*map(str, folders), os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/bin"])
    if found := shutil.which(name, path=path):
        return found
    raise DevstackError(f"{name} is not installed; on Debian: apt-get install {package}")


class Server(ABC):
    """A private server, as an async context manager: ready inside the block, and completely removed after it.

    A test may suspend, kill, stop and start the server. It comes back on the same ports with the same data.

    Attributes:
        name: its name in messages.
        url_variable: the gateway's environment variable for the URL of this server.
        number_of_ports: the number of ports that it listens on.
        stop_signal: the signal for a graceful stop.
        port_in_use_pattern: a regular expression that matches its log if another process has one of its ports.
    """

    name: ClassVar[str]
    url_variable: ClassVar[str]
    number_of_ports: ClassVar[int] = 1
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    port_in_use_pattern: ClassVar[str] = "address already in use"

    def __init__(self, folder: Path, *, report: Reporter = silent) -> None:
        """Define a server. Nothing is started.

        Args:
            folder: for its data and its log. It must not exist yet.
            report: called with a line for each start and stop.
        """
        self.folder = folder
        self.log = folder / "log"
        self._report = report
        self._reserved: list[socket.socket] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    # Implemented by each server.

    @property
    @abstractmethod
    def url(self) -> str:
        """The URL for the gateway's settings, with user and password."""

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command that runs the server in the foreground, on `self.ports`."""

    @abstractmethod
    async def probe(self) -> bool:
        """Return whether this server, and not another one, responds on its port. A call that hangs is cancelled."""

    async def prepare(self) -> None:  # noqa: B027 - not every server needs it
        """Write files to its folder, once, before the first start."""

    async def clients(self) -> list[str]:
        """Return the name of each connection of the gateway, if the server knows them. The leak checks of the tests use it."""
        return []

    async def initialize(self) -> None:  # noqa: B027 - not every server needs it
        """Create users and databases, once, after the first start."""

    def environment(self) -> dict[str, str]:
        """Return the environment of the server and its tools.

        It has no inherited variables, because they may point to a server of the system.
        """
        return {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(self.folder)}

    def run_as(self) -> pwd.struct_passwd | None:
        """Return the user that runs the server, None for the current one. A server does not run as root."""
        if os.geteuid() != 0:
            return None
        try:
            return pwd.getpwnam("postgres")
        except KeyError:
            return pwd.getpwnam("nobody")

    # Start and stop.

    async def __aenter__(self) -> Self:
        started_at = time.monotonic()
        try:
            self._make_folder()
            await self.prepare()
            await self._start_on_free_ports()
            await self.initialize()
        except BaseException:
            self._clean_up()
            raise
        elapsed = time.monotonic() - started_at
        self._report(f"{self.name}: ready on {ports.LOOPBACK}:{self.port} after {elapsed:.1f} s")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        started_at = time.monotonic()
        try:
            await self.stop()
        finally:
            self._clean_up()
        self._report(f"{self.name}: stopped after {time.monotonic() - started_at:.1f} s")

    @property
    def entry(self) -> str:
        """The name of the gateway's entry that uses it, such as `database`."""
        return self.url_variable.removeprefix("GATEWAY_").partition("__")[0].lower()

    @property
    def port(self) -> int:
        """The port for clients."""
        return self.ports[0]

    @property
    def ports(self) -> list[int]:
        """All its ports. They stay the same until the context manager exits."""
        return [reserved.getsockname()[1] for reserved in self._reserved]

    @property
    def running(self) -> bool:
        """True while its main process exists, even if it is suspended."""
        return self.status is not ServerStatus.STOPPED

    @property
    def status(self) -> ServerStatus:
        """The status of its main process. A server that is still starting is running."""
        if self._process is None or self._process.poll() is not None:
            return ServerStatus.STOPPED
        return ServerStatus.SUSPENDED if reaper.is_stopped(self._process.pid) else ServerStatus.RUNNING

    async def is_ready(self) -> bool:
        """Return whether the server responds within a second."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                return await self.probe()
        except TimeoutError:
            return False

    async def start(self) -> None:
        """Start the server on its ports, with its existing data; return when it is ready.

        Raises:
            DevstackError: it exited, or is not ready after two minutes.
        """
        if self.running:
            raise RuntimeError(f"{self.name} is running already")
        self.kill()  # leftovers of an earlier run, such as PostgreSQL backends without their postmaster
        with self.log.open("ab") as log:
            self._log_start = log.seek(0, os.SEEK_END)
            self._process = self._spawn(self.command(), log)
        await self._wait_until_ready(self._process)

    async def stop(self) -> None:
        """Stop the server with its stop signal, and with SIGKILL after ten seconds. It need not be running."""
        try:
            if self.running and self._process is not None:
                self.resume()  # a suspended process does not handle signals
                self._process.send_signal(self.stop_signal)
                await wait_for_exit(self._process, timeout=STOP_TIMEOUT)
        finally:
            self.kill()  # also other processes that it started, such as RabbitMQ's epmd

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the main process.

        Raises:
            RuntimeError: it is not running.
        """
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        self._process.send_signal(number)

    def suspend(self) -> None:
        """SIGSTOP all its processes; return when all are stopped.

        The kernel still accepts connections to its ports, and nothing responds.
        """
        while running := [pid for pid in reaper.find_processes(self.folder) if not reaper.is_stopped(pid)]:
            for pid in running:
                reaper.send_signal(signal.SIGSTOP, pid, self.folder)

    def resume(self) -> None:
        """SIGCONT all its processes."""
        for pid in reaper.find_processes(self.folder):
            reaper.send_signal(signal.SIGCONT, pid, self.folder)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Suspend the server inside the block."""
        self.suspend()
        try:
            yield
        finally:
            self.resume()

    def kill(self) -> None:
        """SIGKILL all its processes; return when they are gone and their ports are free."""
        reaper.kill(self.folder)
        if self._process is not None:
            self._process.wait()
            self._process = None

    @asynccontextmanager
    async def killed(self) -> AsyncIterator[None]:
        """Kill the server; start it again after the block, with its data."""
        self.kill()
        try:
            yield
        finally:
            await self.start()

    @asynccontextmanager
    async def stopped(self) -> AsyncIterator[None]:
        """Stop the server gracefully; start it again after the block, with its data."""
        await self.stop()
        try:
            yield
        finally:
            await self.start()

    # For subclasses.

    def write(self, name: str, text: str) -> Path:
        """Write a file that only the server can read."""
        path = self.folder / name
        path.touch(mode=0o600)
        self._chown(path)
        path.write_text(text)
        return path

    async def run(self, *command: str, text: str = "", timeout: float = 60.0) -> str:
        """Run a tool of the server to its end; return its output.

        Args:
            command: the program and its arguments.
            text: for its standard input.
            timeout: seconds until it is killed.

        Raises:
            DevstackError: it failed or timed out; with the end of its output.
        """
        with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as output:
            stdin.write(text.encode())
            stdin.seek(0)
            process = self._spawn(command, output, stdin)
            try:
                exited = await wait_for_exit(process, timeout=timeout)
            finally:
                process.kill()
                process.wait()
            output.seek(0)
            printed = output.read().decode(errors="replace")
        if process.returncode:
            reason = f"failed with status {process.returncode}" if exited else f"took more than {timeout:g} s"
            raise DevstackError(f"{self.name}: {Path(command[0]).name} {reason}{_log_tail(printed)}")
        return printed

    def _make_folder(self) -> None:
        self.folder.mkdir(mode=0o700)
        self._chown(self.folder)

    def _chown(self, path: Path) -> None:
        if user := self.run_as():
            os.chown(path, user.pw_uid, user.pw_gid)

    def _spawn(
        self, command: Sequence[str], output: IO[bytes], stdin: IO[bytes] | int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        user = self.run_as()
        return subprocess.Popen(  # noqa: S603
            command,
            cwd=self.folder,
            env=self.environment() | {reaper.MARKER: str(self.folder)},
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that Ctrl-C does not reach it: the stack stops it
            umask=0o077,
            user=user.pw_uid if user else None,
            group=user.pw_gid if user else None,
            extra_groups=[] if user else None,
        )

    async def _start_on_free_ports(self) -> None:
        for attempt in range(1, MAX_PORT_ATTEMPTS + 1):
            self._reserved.extend(ports.reserve() for _ in range(self.number_of_ports))
            self._report(f"{self.name}: starting on {ports.LOOPBACK}:{self.port}")
            try:
                await self.start()
            except PortInUseError:
                if attempt == MAX_PORT_ATTEMPTS:
                    raise
                self._release_ports()
            else:
                return

    async def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not await self.is_ready():
            if process.poll() is not None:
                raise self._start_error(f"exited with status {process.returncode} while starting")
            if time.monotonic() > deadline:
                raise self._start_error(f"is not ready after {START_TIMEOUT:g} s")
            await asyncio.sleep(POLL_INTERVAL)

    def _start_error(self, problem: str) -> DevstackError:
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            printed = log.read().decode(errors="replace")
        port_in_use = re.search(self.port_in_use_pattern, printed, re.IGNORECASE)
        return (PortInUseError if port_in_use else DevstackError)(f"{self.name} {problem}{_log_tail(printed)}")

    def _clean_up(self) -> None:
        self.kill()
        self._release_ports()

    def _release_ports(self) -> None:
        while self._reserved:
            self._reserved.pop().close()


async def wait_for_exit(process: subprocess.Popen[bytes], *, timeout: float) -> bool:
    """Return whether a process exits within `timeout` seconds.

    Polling works on every event loop. A subprocess of asyncio costs a thread, and uvloop's cannot run as another user.
    """
    deadline = time.monotonic() + timeout
    while process.poll() is None:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(POLL_INTERVAL)
    return True


def _log_tail(text: str) -> str:
    lines = text.strip().splitlines()[-MAX_LOG_LINES:]
    return "".join(f"\n  | {line[:MAX_LINE_LENGTH]}" for line in lines) or ", and printed nothing"
