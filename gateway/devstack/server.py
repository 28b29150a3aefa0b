"""What all our servers have in common: a process in a folder of its own, on loopback ports of its own."""

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
from pathlib import Path
from types import TracebackType
from typing import IO, ClassVar, Self

from gateway.devstack import ports, reaper
from gateway.devstack.folder import Reporter, silent

_START_LIMIT = 120.0  # seconds until it must answer: RabbitMQ takes 5 s on two idle cores
_STOP_LIMIT = 10.0  # seconds from the polite signal to SIGKILL
_ANSWER_LIMIT = 1.0  # seconds for one question whether it is up
_PAUSE = 0.02  # seconds between two looks
_ATTEMPTS = 5  # at free ports
_LOG_TAIL = 15  # lines
_LOG_WIDTH = 300  # characters


class DevstackError(Exception):
    """A server cannot be had; the message says which and why, with the end of its log, or what to install."""


class PortInUseError(DevstackError):
    """Somebody else listens on a port of ours."""


def find_program(name: str, *, package: str, folders: Sequence[Path] = ()) -> str:
    """Find a server's program in the folders, then on the PATH.

    Raises:
        DevstackError: naming the Debian package to install.
    """
    path = os.pathsep.join([*map(str, folders), os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/bin"])
    if found := shutil.which(name, path=path):
        return found
    raise DevstackError(f"{name} is not installed; on Debian: apt-get install {package}")


class Server(ABC):
    """A server of ours, an async context manager: it answers when entered, and nothing of it is left when left.

    Whoever tests against it may suspend, kill, stop and start it: it comes back on the same port with the same data.
    """

    name: ClassVar[str]
    number_of_ports: ClassVar[int] = 1
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    port_in_use_pattern: ClassVar[str] = "address already in use"
    """What its log says, as a pattern, when somebody else has one of its ports."""

    def __init__(self, folder: Path, *, report: Reporter = silent) -> None:
        """Make one that will live in `folder`, which must not exist yet. Nothing is started."""
        self.folder = folder
        self.log = folder / "log"
        self._report = report
        self._reserved: list[socket.socket] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    # What each server says about itself.

    @property
    @abstractmethod
    def url(self) -> str:
        """The URL that the gateway's settings take, with user and password."""

    @abstractmethod
    def command(self) -> list[str]:
        """The command that runs it in the foreground, on `self.ports`."""

    @abstractmethod
    async def probe(self) -> bool:
        """Whether it answers, and as ours does. May take for ever: it is cancelled after a second."""

    async def prepare(self) -> None:  # noqa: B027 - not every server needs it
        """Write what it needs into its folder, once, before the first start."""

    async def initialize(self) -> None:  # noqa: B027 - nor this
        """Fill it, once, after the first start."""

    def environment(self) -> dict[str, str]:
        """Its environment, and that of its tools: nothing of ours, whose variables may point at the system's server."""
        return {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(self.folder)}

    def run_as(self) -> pwd.struct_passwd | None:
        """The user that it runs as when we are root, which servers should not run as; None is ourselves."""
        if os.geteuid() != 0:
            return None
        try:
            return pwd.getpwnam("postgres")
        except KeyError:
            return pwd.getpwnam("nobody")

    # Its life.

    async def __aenter__(self) -> Self:
        began = time.monotonic()
        try:
            self._make_folder()
            await self.prepare()
            await self._start_on_free_ports()
            await self.initialize()
        except BaseException:
            self._clean_up()
            raise
        self._report(f"{self.name}: answers on {ports.LOOPBACK}:{self.port} after {time.monotonic() - began:.1f} s")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        began = time.monotonic()
        try:
            await self.stop()
        finally:
            self._clean_up()
        self._report(f"{self.name}: stopped after {time.monotonic() - began:.1f} s")

    @property
    def port(self) -> int:
        """The port that clients connect to."""
        return self.ports[0]

    @property
    def ports(self) -> list[int]:
        """All its ports; the same ones for the whole of its life."""
        return [holder.getsockname()[1] for holder in self._reserved]

    @property
    def running(self) -> bool:
        """Whether its process is there, be it suspended."""
        return self._process is not None and self._process.poll() is None

    async def is_ready(self) -> bool:
        """Whether it answers within a second."""
        try:
            async with asyncio.timeout(_ANSWER_LIMIT):
                return await self.probe()
        except TimeoutError:
            return False

    async def start(self) -> None:
        """Start it on its ports, with the data it had; return when it answers.

        Raises:
            DevstackError: it ended, or does not answer within two minutes.
        """
        if self.running:
            raise RuntimeError(f"{self.name} is running already")
        self.kill()  # what an earlier life left, such as backends without their postmaster
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = self._spawn(self.command(), log)
        await self._wait_until_ready(self._process)

    async def stop(self) -> None:
        """Stop it as it likes to be stopped, with SIGKILL after ten seconds. It may be down already."""
        try:
            if self.running and self._process is not None:
                self.resume()  # one that is suspended would not hear the signal
                self._process.send_signal(self.stop_signal)
                await _wait_for_exit(self._process, limit=_STOP_LIMIT)
        finally:
            self.kill()  # also what it left, such as RabbitMQ's epmd

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to its main process, which has to be running."""
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        self._process.send_signal(number)

    def suspend(self) -> None:
        """SIGSTOP all its processes; on return none runs. Its ports take connections, and nothing answers."""
        while running := [pid for pid in reaper.find_processes(self.folder) if reaper.state(pid) not in {"T", ""}]:
            for pid in running:
                reaper.send_signal(signal.SIGSTOP, pid, self.folder)

    def resume(self) -> None:
        """SIGCONT all its processes."""
        for pid in reaper.find_processes(self.folder):
            reaper.send_signal(signal.SIGCONT, pid, self.folder)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Suspend it for as long as the block takes."""
        self.suspend()
        try:
            yield
        finally:
            self.resume()

    def kill(self) -> None:
        """SIGKILL all its processes; on return they are gone and their ports are free."""
        reaper.kill(self.folder)
        if self._process is not None:
            self._process.wait()
            self._process = None

    @asynccontextmanager
    async def killed(self) -> AsyncIterator[None]:
        """Kill it; after the block it is up again, with the data it had."""
        self.kill()
        try:
            yield
        finally:
            await self.start()

    @asynccontextmanager
    async def stopped(self) -> AsyncIterator[None]:
        """Stop it as it likes to be stopped; after the block it is up again, with the data it had."""
        await self.stop()
        try:
            yield
        finally:
            await self.start()

    # For the servers' own use.

    def write(self, name: str, text: str) -> Path:
        """Write a file that only the server may read."""
        path = self.folder / name
        path.touch(mode=0o600)
        self._chown(path)
        path.write_text(text)
        return path

    async def run(self, *command: str, text: str = "", limit: float = 60.0) -> str:
        """Run one of its tools to the end, in `limit` seconds, with `text` as its input; return what it printed.

        Raises:
            DevstackError: it failed or took too long; with the end of what it printed.
        """
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as output:
            given.write(text.encode())
            given.seek(0)
            process = self._spawn(command, output, given)
            try:
                in_time = await _wait_for_exit(process, limit=limit)
            finally:
                process.kill()
                process.wait()
            output.seek(0)
            printed = output.read().decode(errors="replace")
        if process.returncode:
            why = f"failed with status {process.returncode}" if in_time else f"took more than {limit:g} s"
            raise DevstackError(f"{self.name}: {Path(command[0]).name} {why}{_log_tail(printed)}")
        return printed

    def _make_folder(self) -> None:
        self.folder.mkdir(mode=0o700)
        self._chown(self.folder)

    def _chown(self, path: Path) -> None:
        if account := self.run_as():
            os.chown(path, account.pw_uid, account.pw_gid)

    def _spawn(
        self, command: Sequence[str], output: IO[bytes], given: IO[bytes] | int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        account = self.run_as()
        return subprocess.Popen(  # noqa: S603
            command,
            cwd=self.folder,
            env=self.environment() | {reaper.MARKER: str(self.folder)},
            stdin=given,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C goes to our process group, and we stop it in its turn
            umask=0o077,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
        )

    async def _start_on_free_ports(self) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            self._reserved.extend(ports.reserve() for _ in range(self.number_of_ports))
            self._report(f"{self.name}: starting on {ports.LOOPBACK}:{self.port}")
            try:
                await self.start()
            except PortInUseError:
                if attempt == _ATTEMPTS:
                    raise
                self._release_ports()
            else:
                return

    async def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_LIMIT
        while not await self.is_ready():
            if process.poll() is not None:
                raise self._failure(f"ended with status {process.returncode} while starting")
            if time.monotonic() > deadline:
                raise self._failure(f"does not answer after {_START_LIMIT:g} s")
            await asyncio.sleep(_PAUSE)

    def _failure(self, what: str) -> DevstackError:
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            written = log.read().decode(errors="replace")
        taken = re.search(self.port_in_use_pattern, written, re.IGNORECASE)
        return (PortInUseError if taken else DevstackError)(f"{self.name} {what}{_log_tail(written)}")

    def _clean_up(self) -> None:
        self.kill()
        self._release_ports()

    def _release_ports(self) -> None:
        while self._reserved:
            self._reserved.pop().close()


async def _wait_for_exit(process: subprocess.Popen[bytes], *, limit: float) -> bool:
    """Whether a process ended within `limit` seconds.

    Looking again and again works on every event loop; asyncio's own subprocesses cost a thread each, and uvloop's
    cannot change the user.
    """
    deadline = time.monotonic() + limit
    while process.poll() is None:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_PAUSE)
    return True


def _log_tail(text: str) -> str:
    lines = text.strip().splitlines()[-_LOG_TAIL:]
    return "".join(f"\n  | {line[:_LOG_WIDTH]}" for line in lines) or ", and printed nothing"
