"""The overview of the stored runs: one screen with the targets, a column for each Python."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks import cases, plots, report
from benchmarks.markdown import format_number, format_table
from benchmarks.results import BenchmarkRun
from benchmarks.targets import Target, all_targets

HEAD = """\
# Benchmarks

`make bench` compares the gateway with other implementations of the same work: on the same servers, with the same data and the
same load, in one run. Every response is checked. A row is the ratio of two cases' requests/s with {connections} connections, unless
it names another value. A value in bold misses its target. [performance.md](performance.md) explains the values.

"""


def write(run: BenchmarkRun, docs: Path) -> None:
    """Store a run in the folder of the documentation, and write all pages again."""
    folder = docs / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{report.stem(run)}.json").write_text(run.model_dump_json(indent=1) + "\n")
    render(docs)


def render(docs: Path) -> None:
    """Write the pages and the plots of all stored runs."""
    runs = stored_runs(docs)
    for run in runs:
        titles = plots.draw(run, docs / "benchmarks", report.stem(run))
        (docs / "benchmarks" / f"{report.stem(run)}.md").write_text(report.markdown(run, titles))
    (docs / "benchmarks.md").write_text(markdown(runs))


def stored_runs(docs: Path) -> list[BenchmarkRun]:
    """Return the stored runs, that of the newest Python first."""
    files = (docs / "benchmarks").glob("*.json")
    runs = [BenchmarkRun.model_validate_json(file.read_text()) for file in files]
    return sorted(runs, key=lambda run: [int(number) for number in run.python.split(".")], reverse=True)


def markdown(runs: Sequence[BenchmarkRun]) -> str:
    """Return the overview of runs, that of the newest Python first."""
    rows = [
        (targets[0].name, targets[0].bound, *map(_value, targets))
        for targets in zip(*map(all_targets, runs), strict=True)
    ]
    pythons = [f"Python {run.python}" for run in runs]
    plot = f"Requests/s with {cases.DEFAULT_CONNECTIONS} connections, {pythons[0]}"
    return (
        HEAD.format(connections=cases.DEFAULT_CONNECTIONS)
        + format_table(["value", "target", *pythons], rows, text_columns=2)
        + f"\n![{plot}](benchmarks/{report.stem(runs[0])}-throughput.svg)\n\n"
        + "".join(
            f"- [{python}](benchmarks/{report.stem(run)}.md): all cases of the run of {report.describe(run)}\n"
            for python, run in zip(pythons, runs, strict=True)
        )
    )


def _value(target: Target) -> str:
    if target.value is None:
        return "not run"
    value = format_number(target.value) + target.unit
    return f"**{value}**" if target.met is False else value
