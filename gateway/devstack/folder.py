"""The data folder of a stack: who owns it, and that nothing of it stays behind."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.devstack import reaper

PREFIX = "gateway-devstack-"

Reporter = Callable[[str], None]
"""Takes one line for a person who waits."""


def silent(line: str) -> None:
    """Report to nobody."""
    del line


@contextmanager
def temporary_data_dir(*, report: Reporter = silent) -> Iterator[Path]:
    """Own a new folder below the system's folder for temporary files; remove it, and all that runs in it, at the end.

    It is also removed when we are killed: by a reaper that waits for our end, or at the latest by the next `temporary_data_dir`.
    """
    remove_stale_dirs(report=report)
    process: subprocess.Popen[bytes] | None = None
    try:
        while process is None:
            folder = Path(tempfile.mkdtemp(prefix=PREFIX)).resolve()
            with reaper.lock_folder(folder, wait=True) as ours:
                if not ours:
                    continue  # somebody's sweep saw it before it was locked, and took it away
                folder.chmod(0o711)  # servers that run as another user pass through it to theirs
                process = _start_reaper(folder)
                try:
                    yield folder
                finally:
                    reaper.remove(folder)
    finally:
        if process is not None:
            process.wait()  # the lock is free now: it finds nothing to do


def remove_stale_dirs(*, report: Reporter = silent) -> None:
    """Remove the folders of stacks whose owner and reaper were both killed. Never touches one that is in use."""
    for folder in Path(tempfile.gettempdir()).resolve().glob(f"{PREFIX}*"):
        try:
            if folder.lstat().st_uid != os.geteuid():
                continue
            with reaper.lock_folder(folder, wait=False) as ours:
                if ours:
                    report(f"removing what a killed stack left in {folder}")
                    reaper.remove(folder)
        except FileNotFoundError:
            continue  # its owner or another sweep was faster
        except OSError as error:
            report(f"cannot remove {folder}: {error}")


def _start_reaper(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-I", "-S", reaper.__file__, str(folder)],
        cwd="/",
        env={},  # it belongs to nobody's folder, also when we do
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # neither Ctrl-C nor a kill of our process group reaches it
    )
