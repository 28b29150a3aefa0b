"""The locked packages."""

import re
from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.project import PROJECT, ROOT, supported_pythons

FOLDER = ROOT / "requirements"
REPLACEABLE = {"pyyaml-ft"}  # on Python 3.13, libcst prefers it to PyYAML, which the list has
TOP_LEVEL = {
    "runtime.txt": PROJECT["dependencies"],
    "dev.txt": [
        *PROJECT["dependencies"],
        *re.findall(
            r"^[a-z].*?(?= *(?:#|$))", (FOLDER / "build.in").read_text() + (FOLDER / "dev.in").read_text(), re.MULTILINE
        ),
    ],
}


@pytest.mark.parametrize("python", supported_pythons())
@pytest.mark.parametrize("file", TOP_LEVEL)
def test_lists_are_complete(file: str, python: str) -> None:
    """The lists have every dependency on each supported Python, although `make lock` resolves them with one Python only."""
    assert unsatisfied(TOP_LEVEL[file], locked_versions(file), python) == []


@pytest.mark.parametrize(("shorter", "longer"), [("runtime.txt", "dev.txt"), ("dev.txt", "training.txt")])
def test_longer_list_has_all_of_the_shorter(shorter: str, longer: str) -> None:
    """The lists agree: a package has one version, whichever list installs it."""
    assert locked_versions(shorter).items() - locked_versions(longer).items() == set()


def test_lists_name_no_index() -> None:
    """The lists have packages and hashes only: pip takes the index from the configuration of the machine."""
    lines = [line for path in FOLDER.glob("*.txt") for line in path.read_text().splitlines()]
    allowed = re.compile(r"[a-z0-9-]+==\S+ \\|    --hash=sha256:[0-9a-f]{64}( \\)?| *#.*|")

    assert [line for line in lines if not allowed.fullmatch(line)] == []


def locked_versions(file: str) -> dict[str, str]:
    return dict(re.findall(r"^(\S+)==(\S+)", (FOLDER / file).read_text(), re.MULTILINE))


def unsatisfied(requirements: list[str], locked: dict[str, str], python: str) -> list[str]:
    """Return those of the requirements, and of the requirements of the locked packages, that these do not satisfy."""
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    missing: list[str] = []
    visited: set[tuple[str, str]] = set()
    pending = [Requirement(line) for line in requirements]
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        if name in REPLACEABLE:
            continue
        if name not in locked or not requirement.specifier.contains(locked[name], prereleases=True):
            missing.append(str(requirement))
            continue
        for extra in {"", *requirement.extras}:
            if (name, extra) not in visited:
                visited.add((name, extra))
                dependencies = [Requirement(line) for line in requires(name) or []]
                pending += [
                    it for it in dependencies if it.marker is None or it.marker.evaluate(environment | {"extra": extra})
                ]
    return missing
