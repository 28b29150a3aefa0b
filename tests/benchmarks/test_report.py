"""The report of a run, and the stored one in docs/."""

from pathlib import Path

from benchmarks.cases import TUTORIAL_BRIEF, WARM
from benchmarks.plots import draw
from benchmarks.report import markdown, summary
from benchmarks.results import BenchmarkRun
from tests.benchmarks.runs import make_result, make_run

DOCS = Path(__file__).parents[2] / "docs"


def test_report_shows_skipped_cases_and_missed_targets() -> None:
    """The page names a contender that did not run with the reason, a target that was not met, and the plots."""
    run = make_run((WARM, [make_result(1000)]), (TUTORIAL_BRIEF, [make_result(100)]))

    page = markdown(run, [("throughput.svg", "Plot: requests/s")], "benchmarks")

    assert "not run: there is no Node.js" in page
    assert "| requests/s / those of the tutorial | at least 22x (stretch 30) | 10x | **not met** |" in page
    assert "![Plot: requests/s](benchmarks/throughput.svg)" in page
    assert "not met  requests/s / those of the tutorial" in summary(run)


def test_stored_page_matches_its_results(tmp_path: Path) -> None:
    """docs/benchmarks.md is the rendering of docs/benchmarks.json: a change of the report's texts is in the page, too."""
    run = BenchmarkRun.model_validate_json((DOCS / "benchmarks.json").read_text())

    titles = draw(run, tmp_path)

    assert markdown(run, titles, "benchmarks") == (DOCS / "benchmarks.md").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in (DOCS / "benchmarks").iterdir()}
