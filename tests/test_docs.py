"""The documentation: its snippets come from tested files, its examples run, and its links resolve."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.lifecycle import EventType

ROOT = Path(__file__).parents[1]
PACKAGE_READMES = [ROOT / "faultlab" / "README.md", ROOT / "gateway" / "lifecycle" / "README.md"]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *PACKAGE_READMES]
SNIPPET = re.compile(r"(?:<!-- (?P<source>\S+) -->\n)?```python\n(?P<code>.*?)```", re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)(?P<target>[^)#]*)(?:#(?P<anchor>[^)]*))?\)")


def snippets() -> list[tuple[str, str | None, str]]:
    """Return the page, the named source file and the code of each snippet."""
    return [
        (str(page.relative_to(ROOT)), found["source"], found["code"])
        for page in PAGES
        for found in SNIPPET.finditer(page.read_text())
    ]


@pytest.mark.parametrize(("page", "source", "code"), snippets())
def test_snippet_is_in_its_source_file(page: str, source: str | None, code: str) -> None:
    """A snippet names its source file, and the file contains it."""
    assert source is not None, f"a snippet in {page} does not name its source file"
    assert code in (ROOT / source).read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "examples").glob("*.py")), ids=lambda path: path.name)
def test_example_runs(path: Path) -> None:
    """An example of the docs exits successfully, without warnings."""
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-W", "error", path], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page, or to the lines of a source file."""
    if page.suffix != ".md":
        return {f"L{number}" for number, _ in enumerate(page.read_text().splitlines(), 1)}
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    """The target of every relative link exists, and so does its heading."""
    for link in LINK.finditer(page.read_text()):
        target = page.parent / link["target"] if link["target"] else page
        assert target.exists(), f"{page.name}: {link[0]}"
        if link["anchor"]:
            assert link["anchor"] in anchors(target), f"{page.name}: {link[0]}"


def test_picture_of_states_is_complete() -> None:
    """The picture of the states of an entry has each event of an entry."""
    picture = (ROOT / "docs" / "pictures" / "entry-states.svg").read_text()
    of_the_stack = {EventType.STARTED, EventType.STOPPING, EventType.STOPPED}

    assert [event for event in EventType if event not in of_the_stack and f">{event}<" not in picture] == []


def test_fault_report_has_the_current_head() -> None:
    """The fault report begins with the current text of its head, as the next generated report will."""
    head = (ROOT / "tests" / "faults" / "report_head.md").read_text().rstrip()
    assert (ROOT / "docs" / "faults.md").read_text().startswith(head + "\n\n## The run\n")
