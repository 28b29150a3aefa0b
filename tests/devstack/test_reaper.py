"""Which processes belong to a folder, and what happens to them."""

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
    """Take a process that was started for the test, and end it with the test."""
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


class TestBelonging:
    def test_a_process_that_works_inside_belongs(self, folder: Path, started: Started) -> None:
        process = started(start(cwd=folder / "redis"))
        assert reaper.find_processes(folder) == [process.pid]

    def test_a_process_with_the_marker_belongs_wherever_it_works(self, folder: Path, started: Started) -> None:
        process = started(start(env={reaper.MARKER: str(folder / "rabbitmq")}))
        assert reaper.find_processes(folder) == [process.pid]

    def test_a_process_of_a_folder_with_a_longer_name_does_not(self, folder: Path, started: Started) -> None:
        longer = folder.with_name("stack2")
        longer.mkdir()
        started(start(cwd=longer))
        started(start(env={reaper.MARKER: str(longer)}))
        assert reaper.find_processes(folder) == []

    async def test_a_shell_in_a_terminal_that_looks_into_the_folder_does_not(
        self, folder: Path, started: Started
    ) -> None:
        ours, theirs = os.openpty()
        terminal = os.ttyname(theirs)
        # The leader of a session gets the first terminal that it opens.
        command = f"exec 3<>{terminal}; : > {folder}/ready; exec sleep 60"
        shell = started(start("sh", "-c", command, cwd=folder))
        await wait_until((folder / "ready").exists, "the shell has its terminal")
        assert reaper.find_processes(folder) == []
        assert alive(shell.pid)
        os.close(ours)
        os.close(theirs)

    def test_a_process_that_has_ended_does_not(self, folder: Path, started: Started) -> None:
        process = started(start(cwd=folder))
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
        assert reaper.find_processes(folder) == []


class TestSend:
    def test_a_process_that_does_not_belong_gets_no_signal(self, folder: Path, started: Started) -> None:
        stranger = started(start())
        reaper.send_signal(signal.SIGKILL, stranger.pid, folder)
        stranger.terminate()
        assert stranger.wait() == -signal.SIGTERM

    def test_no_process_is_no_error(self, folder: Path, started: Started) -> None:
        process = started(start(cwd=folder))
        process.kill()
        process.wait()
        reaper.send_signal(signal.SIGKILL, process.pid, folder)


class TestRemove:
    def test_the_folder_and_all_that_belongs_to_it_is_gone(self, folder: Path, started: Started) -> None:
        inside, marked, stranger = (
            started(start(cwd=folder)),
            started(start(env={reaper.MARKER: str(folder)})),
            started(start()),
        )
        reaper.remove(folder)
        assert not alive(inside.pid)
        assert not alive(marked.pid)
        assert alive(stranger.pid)
        assert not folder.exists()

    def test_a_suspended_process_is_gone_too(self, folder: Path, started: Started) -> None:
        process = started(start(cwd=folder))
        process.send_signal(signal.SIGSTOP)
        reaper.remove(folder)
        assert not alive(process.pid)

    async def test_one_that_starts_others_all_the_time_does_not_outrun_it(self, folder: Path, started: Started) -> None:
        breed = "import os, signal\nwhile os.fork() or signal.pause(): pass"
        last_one_ends, inherited = os.pipe()
        os.set_inheritable(inherited, True)
        started(start(sys.executable, "-I", "-S", "-c", breed, cwd=folder, pass_fds=[inherited]))
        os.close(inherited)
        await wait_until(lambda: len(reaper.find_processes(folder)) > 10, "there are more than ten processes")
        reaper.remove(folder)
        try:
            assert select.select([last_one_ends], [], [], TIMEOUT)[0]
            assert os.read(last_one_ends, 1) == b""  # nobody holds the other end any more
        finally:
            reaper.kill(folder)
            os.close(last_one_ends)

    @pytest.mark.parametrize("sign", ["", "-"])
    def test_the_shared_memory_of_a_killed_postgresql_is_gone(self, folder: Path, started: Started, sign: str) -> None:
        data = folder / "postgresql" / "data"
        data.mkdir(parents=True)
        make_and_end = "import ctypes; assert ctypes.CDLL(None).shmget(0, 56, 0o600) >= 0"
        maker = started(start(sys.executable, "-I", "-S", "-c", make_and_end))
        assert maker.wait() == 0
        assert shared_memory_of({maker.pid})
        (data / "postmaster.pid").write_text(f"{sign}{maker.pid}\n{data}\n")
        reaper.remove(folder)
        assert not shared_memory_of({maker.pid})

    def test_a_folder_that_is_gone_is_no_error(self, folder: Path) -> None:
        reaper.remove(folder)
        reaper.remove(folder)


class TestOwned:
    def test_one_owns_it_and_no_other(self, folder: Path) -> None:
        with reaper.lock_folder(folder, wait=False) as ours, reaper.lock_folder(folder, wait=False) as theirs:
            assert (ours, theirs) == (True, False)

    def test_it_is_free_again_afterwards(self, folder: Path) -> None:
        with reaper.lock_folder(folder, wait=False):
            pass
        with reaper.lock_folder(folder, wait=False) as ours:
            assert ours

    def test_nobody_owns_what_was_removed_while_they_waited(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waits = threading.Event()
        flock = fcntl.flock

        def wait_for_lock(handle: int, operation: int) -> None:
            if operation == fcntl.LOCK_EX:
                waits.set()
            flock(handle, operation)

        def own() -> bool:
            with reaper.lock_folder(folder, wait=True) as ours:
                return ours

        monkeypatch.setattr(fcntl, "flock", wait_for_lock)
        with ThreadPoolExecutor() as pool:
            with reaper.lock_folder(folder, wait=False):
                owned = pool.submit(own)
                assert waits.wait(timeout=TIMEOUT)
                reaper.remove(folder)
            assert owned.result() is False

    def test_nobody_owns_what_is_not_there(self, folder: Path) -> None:
        with reaper.lock_folder(folder / "gone", wait=True) as ours:
            assert not ours

    def test_nobody_owns_a_link_to_it(self, folder: Path) -> None:
        link = folder.with_name("link")
        link.symlink_to(folder)
        with reaper.lock_folder(link, wait=True) as ours:
            assert not ours
