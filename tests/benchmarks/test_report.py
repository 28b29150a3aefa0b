"""The pages of a run, the overview of several runs, and the stored ones in docs/."""

from pathlib import Path

from benchmarks.cases import TUTORIAL_BRIEF, WARM
from benchmarks.overview import markdown as overview
from benchmarks.overview import render, stored_runs, write
from benchmarks.report import markdown, summary
from tests.benchmarks.runs import make_result, make_run

DOCS = Path(__file__).parents[2] / "docs"


def files(docs: Path) -> dict[str, bytes]:
    """Return the content of the overview and of the files of the runs, by name."""
    return {path.name: path.read_bytes() for path in [docs / "benchmarks.md", *(docs / "benchmarks").iterdir()]}


def test_page_names_what_did_not_run() -> None:
    """The page names a contender that did not run with the reason, and the summary a target that was not met."""
    run = make_run((WARM, [make_result(1000)]), (TUTORIAL_BRIEF, [make_result(100)]))

    page = markdown(run, [("throughput.svg", "Plot: requests/s")])

    assert "not run: there is no Node.js" in page
    assert "![Plot: requests/s](throughput.svg)" in page
    assert "not met  warm brief / tutorial: 10x (at least 22x (stretch 25))" in summary(run)


def test_overview_has_a_column_for_each_python() -> None:
    """The newest Python comes first, a missed target is bold, and a value that was not measured is named."""
    new = make_run((WARM, [make_result(2500)]), (TUTORIAL_BRIEF, [make_result(100)]), python="3.14")
    old = make_run((WARM, [make_result(1000)]), (TUTORIAL_BRIEF, [make_result(100)]), python="3.9")

    page = overview([new, old])

    assert "| value | target | Python 3.14 | Python 3.9 |" in page
    assert "| warm brief / tutorial | at least 22x (stretch 25) | 25x | **10x** |" in page
    assert "| write / one by one | at least 4x | not run | not run |" in page
    assert "![Requests/s with 32 connections, Python 3.14](benchmarks/python-3.14-throughput.svg)" in page


def test_run_replaces_only_that_of_its_python(tmp_path: Path) -> None:
    """A stored run of another Python stays, and the overview has both, that of the newer Python first."""
    for python in ("3.9", "3.14"):
        write(make_run((WARM, [make_result(1)]), python=python), tmp_path)
    write(make_run((WARM, [make_result(2)]), python="3.9"), tmp_path)

    runs = stored_runs(tmp_path)

    assert [(run.python, run.results[WARM.name][0].requests_per_second) for run in runs] == [("3.14", 1), ("3.9", 2)]
    assert "| Python 3.14 | Python 3.9 |" in (tmp_path / "benchmarks.md").read_text()


def test_stored_pages_match_their_results(tmp_path: Path) -> None:
    """The pages in docs/ are the rendering of the stored runs: a change of a text in the code is in the pages, too."""
    (tmp_path / "benchmarks").mkdir()
    for stored in (DOCS / "benchmarks").glob("*.json"):
        (tmp_path / "benchmarks" / stored.name).write_bytes(stored.read_bytes())

    render(tmp_path)

    pages, stored_pages = files(tmp_path), files(DOCS)
    assert pages.keys() == stored_pages.keys()
    assert {name: page for name, page in pages.items() if name.endswith(".md")} == {
        name: page for name, page in stored_pages.items() if name.endswith(".md")
    }


def test_overview_fits_on_one_screen() -> None:
    """The overview has at most 45 lines."""
    assert len((DOCS / "benchmarks.md").read_text().splitlines()) <= 45
