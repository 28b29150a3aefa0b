"""Starts processes for tests, and observes processes, ports and shared memory."""

import socket
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path

from tests.support.waiting import wait_until_equal


def start(
    *command: str, cwd: Path = Path("/"), env: Mapping[str, str] | None = None, pass_fds: Collection[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a process in its own session. Without a command, it sleeps.

    Returns only when its environment can be read: that of a new program is empty for a moment after `exec`.
    """
    process = subprocess.Popen(  # noqa: S603
        command or ["sleep", "60"], cwd=cwd, env=env or {}, pass_fds=pass_fds, start_new_session=True
    )
    if env:
        expected = b"".join(f"{name}={value}\0".encode() for name, value in env.items())
        wait_until_equal(Path(f"/proc/{process.pid}/environ").read_bytes, expected, interval=0.001)
    return process


def alive(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def program(pid: int) -> str:
    """Return the name of the program of a process, "" if it has exited."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def command(pid: int) -> list[str]:
    """Return the command line of a process."""
    return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")


def accepts_connections(port: int) -> bool:
    """Return whether a process listens on a loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return False
    return True


def shared_memory_of(pids: set[int]) -> list[str]:
    """Return the System V segments that these processes created."""
    lines = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    return [line for line in lines if int(line.split()[4]) in pids]
