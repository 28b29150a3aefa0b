"""The documentation: its snippets come from tested files, its examples run, and its links resolve."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.lifecycle import EventType
from gateway.settings import Settings
from gateway.settings.variables import variable_name

ROOT = Path(__file__).parents[1]
FOLDERS_WITH_README = ["faultlab", "gateway/lifecycle", "tests/faults"]
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / folder / "README.md" for folder in FOLDERS_WITH_README),
]
SNIPPET = re.compile(r"(?:<!-- (?P<source>\S+) -->\n)?```python\n(?P<code>.*?)```", re.DOTALL)
LINK = re.compile(r"(?:`(?P<name>[\w.]+)`)?\]\((?!https?:)(?P<target>[^)#]*)(?:#(?P<anchor>[^)]*))?\)")


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
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    """The target of every relative link exists, and so does its heading. A link to a line of code has the line of its name."""
    for link in LINK.finditer(page.read_text()):
        target = page.parent / link["target"] if link["target"] else page
        assert target.exists(), f"{page.name}: {link[0]}"
        if link["anchor"] and target.suffix == ".py":
            assert link["name"], f"{page.name}: {link[0]} does not name a function or a class"
            assert link["anchor"] in line_anchors(target, link["name"].rpartition(".")[2]), f"{page.name}: {link[0]}"
        elif link["anchor"]:
            assert link["anchor"] in anchors(target), f"{page.name}: {link[0]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_text_does_not_become_a_heading(page: Path) -> None:
    """No line begins with the number of an issue: some renderers take `#414` for a heading, which breaks the contents."""
    assert re.findall(r"^#+[^#\s].*", page.read_text(), re.MULTILINE) == []


def line_anchors(path: Path, name: str) -> list[str]:
    """Return the anchors of the lines at which a function or a class of this name is defined."""
    definition = re.compile(rf"\s*(async )?(def|class) {name}\b")
    return [f"L{at}" for at, line in enumerate(path.read_text().splitlines(), 1) if definition.match(line)]


def test_picture_of_states_is_complete() -> None:
    """The picture of the states of an entry has each event of an entry."""
    picture = (ROOT / "docs" / "pictures" / "entry-states.svg").read_text()
    of_the_stack = {EventType.STARTED, EventType.STOPPING, EventType.STOPPED}

    assert [event for event in EventType if event not in of_the_stack and f">{event}<" not in picture] == []


def test_settings_page_is_complete() -> None:
    """The page of the settings has each variable; those that several resources share are listed once, by their last part."""
    page = (ROOT / "docs" / "settings.md").read_text()
    missing = []
    for name, field in Settings.model_fields.items():
        group = getattr(field.annotation, "model_fields", None)
        if group is None and f"`{variable_name(name)}`" not in page:
            missing.append(variable_name(name))
        missing += [
            variable_name(name, part)
            for part in group or ()
            if f"{variable_name(name, part)}`" not in page and f"__{part.upper()}`" not in page
        ]

    assert missing == []


def test_fault_is_two_links_from_its_code() -> None:
    """The first page links the story of one fault, and the story links the line of code that handles it."""
    story = "docs/faults/one-fault.md"
    links = [link["target"] for link in LINK.finditer((ROOT / "README.md").read_text())]
    lines = [link for link in LINK.finditer((ROOT / story).read_text()) if (link["anchor"] or "").startswith("L")]

    assert story in links
    assert any("/gateway/resources/" in link["target"] for link in lines)
