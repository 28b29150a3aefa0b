"""Mutation testing of the core: for each small change to `gateway/lifecycle`, a test in `tests/lifecycle` fails.

`make faults` runs all mutants, `make test` one of each group. The tests run on a copy of the core and its tests.
"""

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.mutants import EQUIVALENT_MUTANTS, MUTANT_GROUPS, Mutant

ROOT = Path(__file__).parents[2]
CORE = Path("gateway/lifecycle")
CORE_TESTS = Path("tests/lifecycle")

MUTANTS = [mutant for group in MUTANT_GROUPS for mutant in group]
QUICK_SELECTION = [group[0] for group in MUTANT_GROUPS]
MODULES_WITH_MUTANTS = sorted(path.stem for path in (ROOT / CORE).glob("*.py") if path.stem != "__init__")

TEST_TIMEOUT = 5  # the slowest test of the core takes 0.4 s; a mutant that makes a test hang is killed, too
PYTEST_OPTIONS = [
    *("--exitfirst", "-p", "anyio", "-p", "no:cacheprovider"),
    *("-o", f"faulthandler_timeout={TEST_TIMEOUT}", "-o", "faulthandler_exit_on_timeout=true"),
]

CONFTEST = """
import pytest

@pytest.fixture(scope="session")
def anyio_backend():
    return "asyncio"
"""

MUTMUT_SETTINGS = f"""
[tool.mutmut]
source_paths = ["gateway"]
pytest_add_cli_args_test_selection = ["{CORE_TESTS}"]
pytest_add_cli_args = {PYTEST_OPTIONS}
timeout_multiplier = 5.0
"""


def copy_core(folder: Path) -> None:
    """Copy the core and its tests, without the rest of the gateway, which takes long to import."""
    for part in (CORE, CORE_TESTS):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "gateway/__init__.py").touch()
    (folder / "tests/conftest.py").write_text(CONFTEST)


def run_python(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-P", *args],
        cwd=folder,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=140,
        check=False,
    )


def mutated(mutant: Mutant) -> str:
    return (ROOT / CORE / mutant.file).read_text().replace(mutant.old, mutant.new)


def is_killed(mutant: Mutant, folder: Path) -> bool:
    """Return whether a test of the core fails for the mutant."""
    copy_core(folder)
    (folder / CORE / mutant.file).write_text(mutated(mutant))
    run = run_python(folder, "-m", "pytest", str(CORE_TESTS), *PYTEST_OPTIONS)
    assert "ERROR collecting" not in run.stdout, f"the core cannot be imported: {mutant}\n{run.stdout}"
    if "Timeout (" in run.stdout + run.stderr:  # a test hangs; the process can crash while it dumps where
        return True
    assert run.returncode in (0, 1), f"pytest did not run: {mutant}\n{run.stdout}{run.stderr}"
    return run.returncode == 1


def test_each_mutant_changes_one_place() -> None:
    """The old text of a mutant occurs once, the new text is valid Python, and no two mutants have one effect."""
    for mutant in MUTANTS:
        assert (ROOT / CORE / mutant.file).read_text().count(mutant.old) == 1, mutant
        compile(mutated(mutant), mutant.file, "exec")
    assert [effect for effect, count in Counter(mutant.effect for mutant in MUTANTS).items() if count > 1] == []


def test_unchanged_core_passes_its_tests(tmp_path: Path) -> None:
    """Without a mutant the tests of the core pass on the copy."""
    copy_core(tmp_path)
    run = run_python(tmp_path, "-m", "pytest", str(CORE_TESTS), *PYTEST_OPTIONS)

    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(mutant, id=mutant.effect, marks=() if mutant in QUICK_SELECTION else pytest.mark.long)
        for mutant in MUTANTS
    ],
)
def test_mutant_is_killed(tmp_path: Path, mutant: Mutant) -> None:
    """A test of the core fails for the mutant."""
    assert is_killed(mutant, tmp_path), f"the mutant survived: {mutant.effect}"


@pytest.fixture(scope="module")
def mutmut_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the core for mutmut, which keeps its mutants and its results there."""
    folder = tmp_path_factory.mktemp("mutmut")
    copy_core(folder)
    with (folder / "pyproject.toml").open("a") as settings:
        settings.write(MUTMUT_SETTINGS)
    return folder


@pytest.mark.long
@pytest.mark.parametrize("module", MODULES_WITH_MUTANTS)
def test_mutmut_finds_no_survivor(mutmut_folder: Path, module: str) -> None:
    """A test of the core fails for each mutant that mutmut generates in the module, except for equivalent ones."""
    prefix = f"gateway.lifecycle.{module}."
    run = run_python(mutmut_folder, "-m", "mutmut", "run", "--max-children", "2", f"{prefix}*")
    assert run.returncode == 0, run.stdout + run.stderr

    results = run_python(mutmut_folder, "-m", "mutmut", "results", "--all", "true")
    status = dict(line.strip().split(": ") for line in results.stdout.splitlines() if line.strip().startswith(prefix))
    assert status, results.stdout + results.stderr
    survivors = {changed_lines(mutmut_folder, name) for name in status if status[name] not in {"killed", "timeout"}}
    equivalent = {(mutant.old, mutant.new) for mutant in EQUIVALENT_MUTANTS if mutant.file == f"{module}.py"}
    assert survivors - equivalent == set()


def changed_lines(folder: Path, mutant: str) -> tuple[str, str]:
    """Return the old line and the new line of a mutant by mutmut."""
    diff = run_python(folder, "-m", "mutmut", "show", mutant).stdout.splitlines()
    old = [line[1:].strip() for line in diff if line.startswith("-") and not line.startswith("---")]
    new = [line[1:].strip() for line in diff if line.startswith("+") and not line.startswith("+++")]
    return "\n".join(old), "\n".join(new)
