"""The data folder: exclusive to its owner, and removed with everything in it."""

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
    """A folder for temporary files, so that `remove_stale_dirs` does not see the stacks of other processes."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def create_stale_dir(temporary: Path) -> Path:
    """Create the folder of a killed stack."""
    folder = temporary / f"{PREFIX}stale"
    (folder / "redis").mkdir(parents=True)
    (folder / "redis" / "log").write_text("ready")
    return folder


class TestTemporaryDataDir:
    def test_location_and_name(self, temporary: Path) -> None:
        """The folder is created in the system's folder for temporary files, with the prefix of a stack."""
        with temporary_data_dir() as folder:
            assert folder.parent == temporary
            assert folder.name.startswith(PREFIX)

    def test_other_users_can_only_pass_through(self) -> None:
        """Other users can reach the folders in it, but cannot list it."""
        with temporary_data_dir() as folder:
            assert folder.stat().st_mode & 0o777 == 0o711

    def test_removed_with_its_processes(self) -> None:
        """After the block, the folder is removed and the processes in it are killed."""
        with temporary_data_dir() as folder:
            (folder / "redis").mkdir()
            process = start(cwd=folder / "redis")

        assert not folder.exists()
        assert process.wait() < 0

    def test_removed_after_an_error(self) -> None:
        """The folder is removed if the block raises."""
        with pytest.raises(ZeroDivisionError), temporary_data_dir() as folder:
            raise ZeroDivisionError

        assert not folder.exists()

    def test_removed_before_it_is_locked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """If another process removes the folder as stale before it is locked, a second one is created."""
        mkdtemp = tempfile.mkdtemp
        created: list[str] = []

        def mkdtemp_and_remove_first(prefix: str) -> str:
            created.append(mkdtemp(prefix=prefix))
            if len(created) == 1:
                remove_stale_dirs()
            return created[-1]

        monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp_and_remove_first)
        with temporary_data_dir() as folder:
            assert folder.is_dir()
            assert [str(folder)] == created[1:]

    def test_concurrent_owners_are_independent(self, temporary: Path) -> None:
        """Eight folders that are created at the same time differ; none is removed as stale; none is left."""
        owners = 8
        barrier = threading.Barrier(owners, timeout=30)

        def own_folder(number: int) -> Path:
            barrier.wait()
            with temporary_data_dir() as folder:
                (folder / "owner").write_text(str(number))
                barrier.wait()
                assert (folder / "owner").read_text() == str(number)
                remove_stale_dirs()
                barrier.wait()
                assert (folder / "owner").read_text() == str(number)
                return folder

        with ThreadPoolExecutor(owners) as pool:
            folders = set(pool.map(own_folder, range(owners)))

        assert len(folders) == owners
        assert list(temporary.iterdir()) == []


class TestRemoveStaleDirs:
    def test_stale_dir_is_removed(self, temporary: Path) -> None:
        """The folder and the processes of a killed stack are removed, and that is reported."""
        stale = create_stale_dir(temporary)
        process = start(cwd=stale)
        lines: list[str] = []

        remove_stale_dirs(report=lines.append)

        assert not stale.exists()
        assert process.wait() < 0
        assert lines == [f"removing {stale}, left by a killed stack"]

    def test_next_stack_removes_stale_dirs(self, temporary: Path) -> None:
        """A new stack removes stale folders."""
        stale = create_stale_dir(temporary)

        with temporary_data_dir():
            assert not stale.exists()

    def test_folder_in_use_is_kept(self) -> None:
        """A folder with an owner is kept, and its processes keep running."""
        with temporary_data_dir() as folder:
            process = start(cwd=folder)

            remove_stale_dirs()

            assert folder.is_dir()
            assert process.poll() is None
        process.wait()

    def test_folder_of_another_user_is_kept(self, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A folder that belongs to another user is kept."""
        stale = create_stale_dir(temporary)
        monkeypatch.setattr("os.geteuid", lambda: stale.stat().st_uid + 1)

        remove_stale_dirs()

        assert stale.is_dir()

    def test_unrelated_folders_are_kept(self, temporary: Path) -> None:
        """A folder with another name is kept, even if a link to it has the name of a stack."""
        other = temporary / "gateway-other"
        other.mkdir()
        link = temporary / f"{PREFIX}link"
        link.symlink_to(other)

        remove_stale_dirs()

        assert other.is_dir()

    def test_failed_removal_is_reported(self, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A folder that cannot be removed is reported, and no error is raised."""
        stale = create_stale_dir(temporary)

        def fail(folder: Path) -> None:
            raise PermissionError(f"not {folder.name}")

        monkeypatch.setattr(reaper, "remove", fail)
        lines: list[str] = []

        remove_stale_dirs(report=lines.append)

        assert lines[-1] == f"cannot remove {stale}: not {stale.name}"
