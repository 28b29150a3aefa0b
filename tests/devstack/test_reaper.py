"""The reaper: it finds, signals and kills the processes of a folder, and locks and removes the folder."""

import fcntl
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.devstack import reaper
from tests.devstack.process_probes import alive, shared_memory_of, start
from tests.support.waiting import TIMEOUT, wait_until

Started = Callable[[subprocess.Popen[bytes]], subprocess.Popen[bytes]]


@pytest.fixture
def started() -> Iterator[Started]:
    """A function that takes a process and kills it at the end of the test."""
    with ExitStack() as stack:

        def started(process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "stack"
    (path / "redis").mkdir(parents=True)
    return path


async def test_traced_process_is_stopped() -> None:
    """A process that a debugger has stopped counts as stopped, so the suspension of its server does not wait for it."""
    code = "import ctypes, os, signal; ctypes.CDLL(None).ptrace(0, 0, 0, 0); os.kill(os.getpid(), signal.SIGSTOP)"
    with subprocess.Popen([sys.executable, "-c", code]) as process:  # noqa: S603, ASYNC220 - our own code; it returns immediately
        try:
            await wait_until(lambda: reaper.state(process.pid) == "t", "the process is traced and stopped")

            assert reaper.is_stopped(process.pid)
        finally:
            process.kill()


class TestFindProcesses:
    def test_working_directory_inside(self, folder: Path, started: Started) -> None:
        """A process whose working directory is inside the folder belongs to it."""
        process = started(start(cwd=folder / "redis"))

        assert reaper.find_processes(folder) == [process.pid]

    def test_marker_in_environment(self, folder: Path, started: Started) -> None:
        """A process with the marker belongs to the folder, even if its working directory is elsewhere."""
        process = started(start(env={reaper.MARKER: str(folder / "rabbitmq")}))

        assert reaper.find_processes(folder) == [process.pid]

    def test_folder_with_the_same_prefix(self, folder: Path, started: Started) -> None:
        """A process of the folder `stack2` does not belong to the folder `stack`."""
        longer = folder.with_name("stack2")
        longer.mkdir()
        started(start(cwd=longer))
        started(start(env={reaper.MARKER: str(longer)}))

        assert reaper.find_processes(folder) == []

    async def test_shell_in_a_terminal(self, folder: Path, started: Started) -> None:
        """A shell in a terminal does not belong to its working directory: a person uses it to look around."""
        controller, terminal = os.openpty()
        # The leader of a session gets the first terminal that it opens.
        command = f"exec 3<>{os.ttyname(terminal)}; : > {folder}/ready; exec sleep 60"
        shell = started(start("sh", "-c", command, cwd=folder))
        await wait_until((folder / "ready").exists, "the shell has its terminal")

        assert reaper.find_processes(folder) == []
        assert alive(shell.pid)
        os.close(controller)
        os.close(terminal)

    def test_zombie(self, folder: Path, started: Started) -> None:
        """A process that has exited does not belong to the folder, even if its parent has not waited for it."""
        process = started(start(cwd=folder))
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie

        assert reaper.find_processes(folder) == []


class TestSendSignal:
    def test_unrelated_process_gets_no_signal(self, folder: Path, started: Started) -> None:
        """A process that does not belong to the folder gets no signal."""
        unrelated = started(start())

        reaper.send_signal(signal.SIGKILL, unrelated.pid, folder)

        unrelated.terminate()
        assert unrelated.wait() == -signal.SIGTERM

    def test_missing_process_is_no_error(self, folder: Path, started: Started) -> None:
        """A signal to a process that has exited is ignored."""
        process = started(start(cwd=folder))
        process.kill()
        process.wait()

        reaper.send_signal(signal.SIGKILL, process.pid, folder)


class TestRemove:
    def test_folder_and_processes_are_gone(self, folder: Path, started: Started) -> None:
        """The folder is removed and its processes are killed; an unrelated process keeps running."""
        inside = started(start(cwd=folder))
        marked = started(start(env={reaper.MARKER: str(folder)}))
        unrelated = started(start())

        reaper.remove(folder)

        assert not alive(inside.pid)
        assert not alive(marked.pid)
        assert alive(unrelated.pid)
        assert not folder.exists()

    def test_suspended_process_is_killed(self, folder: Path, started: Started) -> None:
        """A process that is stopped by SIGSTOP is killed, too."""
        process = started(start(cwd=folder))
        process.send_signal(signal.SIGSTOP)

        reaper.remove(folder)

        assert not alive(process.pid)

    async def test_forking_process_is_killed(self, folder: Path, started: Started) -> None:
        """All processes are killed, even if they start new ones all the time."""
        fork_forever = "import os, signal\nwhile os.fork() or signal.pause(): pass"
        last_exit, inherited = os.pipe()
        os.set_inheritable(inherited, True)
        started(start(sys.executable, "-I", "-S", "-c", fork_forever, cwd=folder, pass_fds=[inherited]))
        os.close(inherited)
        await wait_until(lambda: len(reaper.find_processes(folder)) > 10, "there are more than ten processes")

        reaper.remove(folder)

        try:
            assert select.select([last_exit], [], [], TIMEOUT)[0]
            assert os.read(last_exit, 1) == b""  # end of file: no process has the other end open
        finally:
            reaper.kill(folder)
            os.close(last_exit)

    @pytest.mark.parametrize("sign", ["", "-"])
    def test_shared_memory_is_removed(self, folder: Path, started: Started, sign: str) -> None:
        """The shared memory of the process in `postmaster.pid` is removed, also with the minus sign of initdb."""
        data = folder / "postgresql" / "data"
        data.mkdir(parents=True)
        create_and_exit = "import ctypes; assert ctypes.CDLL(None).shmget(0, 56, 0o600) >= 0"
        creator = started(start(sys.executable, "-I", "-S", "-c", create_and_exit))
        assert creator.wait() == 0
        assert shared_memory_of({creator.pid})
        (data / "postmaster.pid").write_text(f"{sign}{creator.pid}\n{data}\n")

        reaper.remove(folder)

        assert not shared_memory_of({creator.pid})

    def test_missing_folder_is_no_error(self, folder: Path) -> None:
        """A folder that does not exist is no error."""
        reaper.remove(folder)

        reaper.remove(folder)


class TestLockFolder:
    def test_second_lock_fails(self, folder: Path) -> None:
        """Only one of two owners gets the lock."""
        with reaper.lock_folder(folder, wait=False) as first, reaper.lock_folder(folder, wait=False) as second:
            assert (first, second) == (True, False)

    def test_lock_is_released(self, folder: Path) -> None:
        """After the block, the folder can be locked again."""
        with reaper.lock_folder(folder, wait=False):
            pass

        with reaper.lock_folder(folder, wait=False) as locked:
            assert locked

    def test_folder_removed_while_waiting(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """If the folder is removed while a second owner waits for the lock, that owner does not get it."""
        waiting = threading.Event()
        flock = fcntl.flock

        def flock_and_signal(descriptor: int, operation: int) -> None:
            if operation == fcntl.LOCK_EX:
                waiting.set()
            flock(descriptor, operation)

        def wait_for_lock() -> bool:
            with reaper.lock_folder(folder, wait=True) as locked:
                return locked

        monkeypatch.setattr(fcntl, "flock", flock_and_signal)
        with ThreadPoolExecutor() as pool:
            with reaper.lock_folder(folder, wait=False):
                locked = pool.submit(wait_for_lock)
                assert waiting.wait(timeout=TIMEOUT)
                reaper.remove(folder)
            assert locked.result() is False

    def test_missing_folder(self, folder: Path) -> None:
        """A folder that does not exist cannot be locked."""
        with reaper.lock_folder(folder / "gone", wait=True) as locked:
            assert not locked

    def test_symbolic_link(self, folder: Path) -> None:
        """A symbolic link to a folder cannot be locked."""
        link = folder.with_name("link")
        link.symlink_to(folder)

        with reaper.lock_folder(link, wait=True) as locked:
            assert not locked
