"""Finds and removes the processes, files and shared memory of a stack, in particular after its owner was killed.

As a program, `python reaper.py FOLDER`, it is the reaper of one stack: a process in its own session that waits until the
owner of the folder has exited, for any reason, and then removes the rest. It is started by its path and imports only the
standard library, so it starts in a few milliseconds.
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

MARKER = "GATEWAY_DEVSTACK"  # the environment variable that assigns a process to a folder

KILL_TIMEOUT = 10.0  # the kernel needs time to free a large memory


def find_processes(folder: Path) -> list[int]:
    """Return the ids of the running processes that belong to a folder or to one inside it."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if _belongs(pid, folder)]


def state(pid: int) -> str:
    """Return the state of a process as in /proc: R, S and D are running, T and t are stopped; "" if there is no process."""
    fields = _stat(pid)
    return fields[0] if fields else ""


def is_stopped(pid: int) -> bool:
    """Return whether a process is stopped, by a signal or, as in `t`, by a debugger or strace."""
    return state(pid) in {"T", "t"}


def send_signal(signum: signal.Signals, pid: int, folder: Path) -> None:
    """Signal a process only if it belongs to the folder: its id may have been reused for another process."""
    with _open_pidfd(pid) as pidfd:
        if pidfd is not None and _belongs(pid, folder):
            signal.pidfd_send_signal(pidfd, signum)


def kill(folder: Path) -> set[int]:
    """SIGKILL all processes that belong to a folder, and wait until they have exited.

    Returns:
        Their process ids.

    Raises:
        TimeoutError: a process still exists after ten seconds.
    """
    deadline = time.monotonic() + KILL_TIMEOUT
    killed: set[int] = set()
    while pids := find_processes(folder):  # repeated, because a process may have started another one just now
        killed.update(pids)
        with ExitStack() as stack:
            # An exiting process stops belonging to the folder before it closes its ports. Its pidfd reports the exit.
            pidfds = [stack.enter_context(_open_pidfd(pid)) for pid in pids]
            for pid in pids:
                send_signal(signal.SIGKILL, pid, folder)
            for pid, pidfd in zip(pids, pidfds, strict=True):
                if pidfd is not None and not _wait_for_exit(pidfd, deadline):
                    raise TimeoutError(f"process {pid} has not exited after SIGKILL")
    return killed


def remove(folder: Path) -> None:
    """Kill the processes that belong to a folder, and remove the folder. Neither has to exist."""
    _remove_shared_memory(folder, kill(folder))
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)


@contextmanager
def lock_folder(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Lock a folder for the duration of the block. The kernel releases the lock when this process exits.

    Args:
        folder: the folder; a symbolic link is not followed.
        wait: wait for the lock if another process has it.

    Yields:
        Whether the folder is locked. False: it does not exist, or another process has the lock and `wait` is false.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield _is_same_file(folder, os.fstat(descriptor))  # the previous owner may have removed it
    finally:
        os.close(descriptor)


def main() -> None:
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    folder = Path(sys.argv[1])
    with lock_folder(folder, wait=True) as locked:
        if locked or not folder.exists():  # if only the folder was removed, its processes may still run
            remove(folder)


@contextmanager
def _open_pidfd(pid: int) -> Iterator[int | None]:
    """Open a pidfd, which still refers to the same process when its id is reused. None if there is no process."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield pidfd
    finally:
        os.close(pidfd)


def _wait_for_exit(pidfd: int, deadline: float) -> bool:
    """Return whether the process exits before the deadline. The kernel has then released all its resources."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(max(0, deadline - time.monotonic()) * 1000))


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat after the name: state, parent, group, session, terminal, ..."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _belongs(pid: int, folder: Path) -> bool:
    """Return whether a process has the marker of the folder, or its working directory inside it.

    One of the two may be missing: PostgreSQL and Redis overwrite their environment with their process title, and epmd
    changes its working directory. A process with a terminal is spared if only its working directory is inside: it is
    probably a shell in which a person reads a log.
    """
    fields = _stat(pid)
    if not fields or fields[0] in "ZX":
        return False
    try:
        cwd = str(Path(f"/proc/{pid}/cwd").readlink()).removesuffix(" (deleted)")
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False  # it has exited, or belongs to another user, like no process of this stack
    prefix = f"{MARKER}=".encode()
    paths = [os.fsdecode(entry.removeprefix(prefix)) for entry in environment.split(b"\0") if entry.startswith(prefix)]
    has_terminal = fields[4] != "0"
    if not has_terminal:
        paths.append(cwd)
    return any(Path(path).is_relative_to(folder) for path in paths)


def _is_same_file(folder: Path, opened: os.stat_result) -> bool:
    try:
        return os.path.samestat(folder.lstat(), opened)
    except FileNotFoundError:
        return False


def _remove_shared_memory(folder: Path, killed: set[int]) -> None:
    """Remove the System V segments that a killed PostgreSQL leaves.

    Their creator is one of the killed processes, or is named in `postmaster.pid` (with a minus sign during initdb).
    Segments that are still attached stay.
    """
    creators = {path.read_text().partition("\n")[0].lstrip("-") for path in folder.glob("*/data/postmaster.pid")}
    creators |= set(map(str, killed))
    for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]:
        _key, number, _mode, _size, creator, _last_user, attached, *_ = line.split()
        if creator in creators and attached == "0":
            ctypes.CDLL(None).shmctl(int(number), 0, None)  # IPC_RMID


if __name__ == "__main__":
    main()
