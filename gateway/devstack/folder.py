"""The data folder of a stack: locked by its owner, and removed even if the owner is killed."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.devstack import reaper

PREFIX = "gateway-devstack-"

Reporter = Callable[[str], None]  # takes a line of progress for the terminal


def silent(line: str) -> None:
    """Report nothing."""
    del line


@contextmanager
def temporary_data_dir(*, report: Reporter = silent) -> Iterator[Path]:
    """Create a folder in the system's folder for temporary files. At the end, remove it and kill all processes in it.

    If this process is killed, a reaper process removes the folder. If the reaper is killed, too, the next call of
    `temporary_data_dir` removes it.
    """
    remove_stale_dirs(report=report)
    process: subprocess.Popen[bytes] | None = None
    try:
        while process is None:
            folder = Path(tempfile.mkdtemp(prefix=PREFIX)).resolve()
            with reaper.lock_folder(folder, wait=True) as locked:
                if not locked:
                    continue  # `remove_stale_dirs` in another process removed it before it was locked
                folder.chmod(0o711)  # servers that run as another user must be able to reach their own folders
                process = _start_reaper(folder)
                try:
                    yield folder
                finally:
                    reaper.remove(folder)
    finally:
        if process is not None:
            process.wait()  # the lock is free now, so the reaper exits


def remove_stale_dirs(*, report: Reporter = silent) -> None:
    """Remove the folders of stacks whose owner and reaper were both killed. A folder in use is locked, and stays."""
    for folder in Path(tempfile.gettempdir()).resolve().glob(f"{PREFIX}*"):
        try:
            if folder.lstat().st_uid != os.geteuid():
                continue
            with reaper.lock_folder(folder, wait=False) as locked:
                if locked:
                    report(f"removing {folder}, left by a killed stack")
                    reaper.remove(folder)
        except FileNotFoundError:
            continue  # its owner or another process has just removed it
        except OSError as error:
            report(f"cannot remove {folder}: {error}")


def _start_reaper(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-I", "-S", reaper.__file__, str(folder)],
        cwd="/",
        env={},  # without the marker of a folder, which this process may have
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # not reached by Ctrl-C or by a signal to the process group of its parent
    )
