"""Mutants of the core: the tests in tests/lifecycle notice each line that is broken. Who copies the core copies these, too."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tests.faults.recording import Record

from tests.faults.mutants import DRAWS, ENTRY_ENTERS, ENTRY_EXITS, MUTANTS, RECORDS, STACK_ENTERS, STACK_LEAVES, Mutant

ROOT = Path(__file__).parents[2]
CORE = Path("gateway/lifecycle")
TESTS = Path("tests/lifecycle")

TEST_LIMIT = 3
"""Seconds for one test: the slowest takes 0.3. One that takes longer has noticed, too."""

A_FEW = [group[0] for group in (STACK_ENTERS, STACK_LEAVES, ENTRY_ENTERS, ENTRY_EXITS, RECORDS, DRAWS)]

BACKEND = """
import pytest

@pytest.fixture(scope="session")
def anyio_backend():
    return "asyncio"
"""


def copy(folder: Path, mutant: Mutant | None) -> None:
    """The core with its tests, and nothing else that would take time to import."""
    for part in (CORE, TESTS):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "gateway/__init__.py").touch()
    (folder / "tests/conftest.py").write_text(BACKEND)
    if mutant is not None:
        (folder / CORE / mutant.file).write_text(mutated(mutant))


def mutated(mutant: Mutant) -> str:
    return (ROOT / CORE / mutant.file).read_text().replace(mutant.old, mutant.new)


def noticed(folder: Path, mutant: Mutant | None) -> str:
    """Run the tests of the core on a copy; return what failed, or nothing if all of them passed."""
    copy(folder, mutant)
    done = subprocess.run(  # noqa: S603 - ours
        [
            *(sys.executable, "-P", "-m", "pytest", TESTS, "--exitfirst", "-p", "anyio", "-p", "no:cacheprovider"),
            *("-o", f"faulthandler_timeout={TEST_LIMIT}", "-o", "faulthandler_exit_on_timeout=true"),
        ],
        cwd=folder,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    output = done.stdout + done.stderr
    if done.returncode == 0:
        return ""
    assert done.returncode == 1, f"no test failed, something else did: {mutant}\n{output}"
    assert "ERROR collecting" not in output, f"it cannot even be imported: {mutant}\n{output}"
    return output


@pytest.fixture(scope="module")
def noticed_so_far() -> set[str]:
    """By this run."""
    return set()


def test_each_breaks_a_line_that_is_there_once_and_has_a_name_of_its_own() -> None:
    for mutant in MUTANTS:
        assert (ROOT / CORE / mutant.file).read_text().count(mutant.old) == 1, mutant
        compile(mutated(mutant), mutant.file, "exec")
    assert [name for name, times in Counter(mutant.breaks for mutant in MUTANTS).items() if times > 1] == []


def test_unbroken_the_core_passes_its_tests(tmp_path: Path) -> None:
    assert noticed(tmp_path, None) == ""


@pytest.mark.parametrize(
    "mutant",
    [pytest.param(mutant, id=mutant.breaks, marks=() if mutant in A_FEW else pytest.mark.long) for mutant in MUTANTS],
)
def test_one_is_noticed(tmp_path: Path, record: Record, noticed_so_far: set[str], mutant: Mutant) -> None:
    assert noticed(tmp_path, mutant), f"no test notices that {mutant.breaks}"
    noticed_so_far.add(mutant.breaks)
    record.finding("mutants", f"{len(noticed_so_far)} of {len(MUTANTS)} mutants of the core were tried, and noticed.")
