"""The data folder: its owner has it, nobody else touches it, and nothing of it stays behind."""

import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.devstack import reaper
from gateway.devstack.folder import PREFIX, remove_stale_dirs, temporary_data_dir
from tests.devstack.process_probes import start


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files of this test's own: its sweeps see nobody else's stacks."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def left_by_a_killed_stack(temporary: Path) -> Path:
    folder = temporary / f"{PREFIX}stale"
    (folder / "redis").mkdir(parents=True)
    (folder / "redis" / "log").write_text("ready")
    return folder


class TestDataFolder:
    def test_it_is_below_the_systems_folder_for_temporary_files(self, temporary: Path) -> None:
        with temporary_data_dir() as folder:
            assert folder.parent == temporary
            assert folder.name.startswith(PREFIX)

    def test_others_pass_through_it_and_see_nothing(self) -> None:
        with temporary_data_dir() as folder:
            assert folder.stat().st_mode & 0o777 == 0o711

    def test_it_is_gone_afterwards_with_what_is_in_it(self) -> None:
        with temporary_data_dir() as folder:
            (folder / "redis").mkdir()
            process = start(cwd=folder / "redis")
        assert not folder.exists()
        assert process.wait() < 0

    def test_it_is_gone_after_an_error_too(self) -> None:
        with pytest.raises(ZeroDivisionError), temporary_data_dir() as folder:
            raise ZeroDivisionError
        assert not folder.exists()

    def test_a_sweep_before_it_is_locked_costs_no_more_than_another_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        make = tempfile.mkdtemp
        made: list[str] = []

        def make_and_sweep(prefix: str) -> str:
            made.append(make(prefix=prefix))
            if len(made) == 1:
                remove_stale_dirs()
            return made[-1]

        monkeypatch.setattr(tempfile, "mkdtemp", make_and_sweep)
        with temporary_data_dir() as folder:
            assert folder.is_dir()
            assert [str(folder)] == made[1:]

    def test_many_begun_in_the_same_instant_do_not_harm_each_other(self, temporary: Path) -> None:
        together = 8
        barrier = threading.Barrier(together, timeout=30)

        def own_one(number: int) -> Path:
            barrier.wait()
            with temporary_data_dir() as folder:
                (folder / "mine").write_text(str(number))
                barrier.wait()
                assert (folder / "mine").read_text() == str(number)
                remove_stale_dirs()
                barrier.wait()
                assert (folder / "mine").read_text() == str(number)
                return folder

        with ThreadPoolExecutor(together) as pool:
            folders = set(pool.map(own_one, range(together)))
        assert len(folders) == together
        assert list(temporary.iterdir()) == []


class TestSweep:
    def test_what_a_killed_stack_left_is_removed(self, temporary: Path) -> None:
        stale = left_by_a_killed_stack(temporary)
        process = start(cwd=stale)
        lines: list[str] = []
        remove_stale_dirs(report=lines.append)
        assert not stale.exists()
        assert process.wait() < 0
        assert lines == [f"removing what a killed stack left in {stale}"]

    def test_the_next_stack_does_it(self, temporary: Path) -> None:
        stale = left_by_a_killed_stack(temporary)
        with temporary_data_dir():
            assert not stale.exists()

    def test_one_that_is_in_use_is_never_touched(self) -> None:
        with temporary_data_dir() as folder:
            process = start(cwd=folder)
            remove_stale_dirs()
            assert folder.is_dir()
            assert process.poll() is None
        process.wait()

    def test_another_users_is_not_touched(self, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        stale = left_by_a_killed_stack(temporary)
        monkeypatch.setattr("os.geteuid", lambda: stale.stat().st_uid + 1)
        remove_stale_dirs()
        assert stale.is_dir()

    def test_other_folders_are_not_touched(self, temporary: Path) -> None:
        other = temporary / "gateway-other"
        other.mkdir()
        link = temporary / f"{PREFIX}link"
        link.symlink_to(other)
        remove_stale_dirs()
        assert other.is_dir()

    def test_one_that_cannot_be_removed_is_reported_and_passed_over(
        self, temporary: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stale = left_by_a_killed_stack(temporary)

        def refuse(folder: Path) -> None:
            raise PermissionError(f"not {folder.name}")

        monkeypatch.setattr(reaper, "remove", refuse)
        lines: list[str] = []
        remove_stale_dirs(report=lines.append)
        assert lines[-1] == f"cannot remove {stale}: not {stale.name}"
