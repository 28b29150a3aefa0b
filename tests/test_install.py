"""The output of `tools/install` and `tools/install-packages`: names and progress on a terminal, little elsewhere."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.project import ROOT

PIP = """#!/bin/sh
echo "pip: $*"
"""
# It may not remove or write files of the system.
SUDO = """#!/bin/sh
case $1 in env) exec "$@" ;; tee) cat >/dev/null ;; esac
"""
APT_GET = """#!/bin/sh
echo "apt-get: $*"
case $* in *install*) [ -e updated ] ;; *update*) touch updated ;; esac
"""

Run = Callable[..., list[str]]


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the scripts use, with programs that print their arguments in place of pip, sudo and apt-get."""
    for name in ("tools", "requirements"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    write_program(tmp_path / ".venv" / "bin" / "pip", PIP)
    write_program(tmp_path / "bin" / "id", "#!/bin/sh\necho 1000\n")
    write_program(tmp_path / "bin" / "sudo", SUDO)
    write_program(tmp_path / "bin" / "apt-get", APT_GET)
    return tmp_path


@pytest.fixture(params=["terminal", "pipe"])
def on_terminal(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "terminal")


@pytest.fixture
def run(checkout: Path, on_terminal: bool) -> Run:
    """A function that runs a script of `tools`, and returns the lines of its output."""

    def run_script(*command: str) -> list[str]:
        reading, writing = os.openpty() if on_terminal else os.pipe()
        environment = {"PATH": f"{checkout}/bin:/usr/bin:/bin", "PYTHON": sys.executable}
        try:
            subprocess.run(command, cwd=checkout, env=environment, stdout=writing, check=True)  # noqa: S603 - our own code
            os.write(writing, b"end\n")
            output = b""
            while not output.endswith((b"end\n", b"end\r\n")):
                output += os.read(reading, 4096)
        finally:
            os.close(reading)
            os.close(writing)
        return output.decode().splitlines()[:-1]

    return run_script


def test_python_packages(run: Run, on_terminal: bool) -> None:
    """`tools/install` prints the number of packages, and pip shows its progress on a terminal. Later it prints nothing."""
    first, *pip_lines = run("tools/install", "runtime")
    again = run("tools/install", "runtime")

    quiet = "" if on_terminal else " --quiet"
    options = "--disable-pip-version-check --no-deps"
    lists = "-r requirements/build.txt -r requirements/runtime.txt"
    packages = {
        line.partition("==")[0]
        for name in ("build", "runtime")
        for line in (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
        if "==" in line
    }
    assert first == f"installing {len(packages)} packages into .venv"
    assert pip_lines == [
        f"pip: install {options}{quiet} --require-hashes {lists}",
        f"pip: install {options} --quiet --no-build-isolation --editable .",
    ]
    assert again == []


def test_system_packages(run: Run, on_terminal: bool) -> None:
    """`tools/install-packages` prints the names, and apt-get its output on a terminal only. Missing lists are updated."""
    first, *apt_lines = run("tools/install-packages", "redis-server", "postgresql")

    options = "-o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0"
    install = f"apt-get: {options} install --yes --no-install-recommends redis-server postgresql"
    assert first == "installing with apt-get: redis-server postgresql"
    assert apt_lines == (
        [
            install,
            "the lists of packages are missing or too old: updating them",
            f"apt-get: {options} update",
            install,
        ]
        if on_terminal
        else []
    )
