"""What a stack leaves behind when its owner is killed: how to find it, and how to take it away.

Run as a program, `python reaper.py FOLDER`, it is the reaper of one stack: a process of its own session that waits until
the owner of the folder is gone, however it went, and then takes away what is left. It is started by its path, so that
it is up in a few milliseconds and needs nothing but the standard library.
"""

import ctypes
import fcntl
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

MARKER = "GATEWAY_DEVSTACK"
"""The environment variable that says to which folder a process belongs."""

_KILL_LIMIT = 10.0  # seconds; a killed process may still have much memory to give back


def find_processes(folder: Path) -> list[int]:
    """The ids of the running processes that belong to a folder or to one inside it."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if _belongs(pid, folder)]


def state(pid: int) -> str:
    """The state of a process as in /proc: R, S, D run; T is stopped; empty if there is none (any more)."""
    fields = _stat(pid)
    return fields[0] if fields else ""


def send_signal(signum: signal.Signals, pid: int, folder: Path) -> None:
    """Signal a process if it (still) belongs to the folder: its id may have been given to another in the meantime."""
    with _handle(pid) as handle:
        if handle is not None and _belongs(pid, folder):
            signal.pidfd_send_signal(handle, signum)


def kill(folder: Path) -> set[int]:
    """SIGKILL all that belongs to a folder, and wait until it is gone.

    Returns:
        The ids that these processes had.

    Raises:
        TimeoutError: something is still there after ten seconds.
    """
    deadline = time.monotonic() + _KILL_LIMIT
    killed: set[int] = set()
    while pids := find_processes(folder):  # again and again: one of them may just have started another
        killed.update(pids)
        with ExitStack() as stack:
            # A dying process loses what it belongs by before it closes its ports: only its handle says when it is gone.
            handles = [stack.enter_context(_handle(pid)) for pid in pids]
            for pid in pids:
                send_signal(signal.SIGKILL, pid, folder)
            for pid, handle in zip(pids, handles, strict=True):
                if handle is not None and not _wait_for_exit(handle, deadline):
                    raise TimeoutError(f"a process that survives SIGKILL: {pid}")
    return killed


def remove(folder: Path) -> None:
    """Kill what belongs to a folder, and remove the folder. Neither needs to be there."""
    _remove_shared_memory(folder, kill(folder))
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)


@contextmanager
def lock_folder(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Own a folder: hold the lock on it, which the kernel gives back when its holder dies.

    Yields:
        Whether we own it: false if it is gone, or somebody else's and we do not wait.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            # Whoever had it before us may have removed it.
            yield _is_same_file(folder, os.fstat(handle))
    finally:
        os.close(handle)


def main() -> None:
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    folder = Path(sys.argv[1])
    with lock_folder(folder, wait=True) as ours:
        if ours or not folder.exists():  # whoever removes only the folder leaves its servers to us
            remove(folder)


@contextmanager
def _handle(pid: int) -> Iterator[int | None]:
    """A handle of a process, which stays its own when the id is given to another. None: there is no such process."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


def _wait_for_exit(handle: int, deadline: float) -> bool:
    """Wait until the process has ended, and all that it held is given back; until the deadline at most."""
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(max(0, deadline - time.monotonic()) * 1000))


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat after the name: state, parent, group, session, terminal, ..."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _belongs(pid: int, folder: Path) -> bool:
    """Whether a process carries the marker of the folder, or works inside it.

    Either may be missing: PostgreSQL and Redis overwrite their environment with their title, epmd leaves the folder.
    One with a terminal may work inside the folder and is spared: that is a person who looks into a log.
    """
    fields = _stat(pid)
    if not fields or fields[0] in "ZX":
        return False
    try:
        where = str(Path(f"/proc/{pid}/cwd").readlink()).removesuffix(" (deleted)")
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False  # ended, or another user's and so not ours
    prefix = f"{MARKER}=".encode()
    paths = [os.fsdecode(entry.removeprefix(prefix)) for entry in environment.split(b"\0") if entry.startswith(prefix)]
    if fields[4] == "0":  # has no terminal
        paths.append(where)
    return any(Path(path).is_relative_to(folder) for path in paths)


def _is_same_file(folder: Path, opened: os.stat_result) -> bool:
    try:
        return os.path.samestat(folder.lstat(), opened)
    except FileNotFoundError:
        return False


def _remove_shared_memory(folder: Path, killed: set[int]) -> None:
    """Remove the System V segment that PostgreSQL leaves when it is killed.

    It was made by one of those that we killed, or by the one that wrote `postmaster.pid` (with a minus while initdb runs
    it), and nobody uses it now.
    """
    makers = {path.read_text().partition("\n")[0].lstrip("-") for path in folder.glob("*/data/postmaster.pid")}
    makers |= set(map(str, killed))
    for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]:
        _key, number, _mode, _size, made_by, _last_by, attached, *_ = line.split()
        if made_by in makers and attached == "0":
            ctypes.CDLL(None).shmctl(int(number), 0, None)  # IPC_RMID


if __name__ == "__main__":
    main()
