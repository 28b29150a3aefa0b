"""What the docs show is what is there: every snippet stands in a file, and every example runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE_READMES = [ROOT / "faultlab" / "README.md", ROOT / "gateway" / "lifecycle" / "README.md"]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *PACKAGE_READMES]
SNIPPET = re.compile(r"(?:<!-- (?P<source>\S+) -->\n)?```python\n(?P<code>.*?)```", re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)(?P<target>[^)#]*)(?:#(?P<anchor>[^)]*))?\)")


def snippets() -> list[tuple[str, str | None, str]]:
    return [
        (str(page.relative_to(ROOT)), found["source"], found["code"])
        for page in PAGES
        for found in SNIPPET.finditer(page.read_text())
    ]


@pytest.mark.parametrize(("page", "source", "code"), snippets())
def test_a_snippet_stands_in_the_file_that_it_names(page: str, source: str | None, code: str) -> None:
    assert source is not None, f"{page} shows code of no file"
    assert code in (ROOT / source).read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "examples").glob("*.py")), ids=lambda path: path.name)
def test_an_example_runs(path: Path) -> None:
    done = subprocess.run(  # noqa: S603 - ours
        [sys.executable, "-W", "error", path], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in LINK.finditer(page.read_text()):
        target = page.parent / link["target"] if link["target"] else page
        assert target.exists(), f"{page.name}: {link[0]}"
        if link["anchor"]:
            assert link["anchor"] in anchors(target), f"{page.name}: {link[0]}"


def test_the_report_of_the_fault_lab_begins_as_the_next_one_will() -> None:
    head = (ROOT / "tests" / "faults" / "report_head.md").read_text().rstrip()
    assert (ROOT / "docs" / "faults.md").read_text().startswith(head + "\n\n## The run\n")
