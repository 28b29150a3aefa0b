"""The report: the results of a run as data, and the pages and timelines that are made from them.

`make faults` writes the data and renders them. After a change of the text, `python -m tests.faults.report docs/faults` renders
the data of the last run again.
"""

import json
import os
import platform
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from faultlab.timeline_svg import Bar, Segment, SegmentState, timeline_svg
from gateway.lifecycle import EventType, format_error, spans
from gateway.lifecycle.timeline import Span
from tests.faults.families import BY_MODULE, FAMILIES, Family
from tests.faults.lifespan_run import LifespanRun, recorded_event
from tests.support.entries import ENTRIES

DOCS = Path(__file__).parents[2] / "docs" / "faults"
PAGES = ["README.md", "one-fault.md"]
RESULTS = "results.json"

ONE_FAULT = BY_MODULE["test_server_rejections"]  # one-fault.md shows the timeline of this family as text
SAMPLE_ENTRY = "rabbitmq"  # of a sweep, the timeline shows the run with the first injection in this entry

_REGION = re.compile(r"(<!-- results: (?P<part>[a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_MARKS = {EventType.STARTED, EventType.STOPPING}
_FAILURES = {
    *(EventType.ENTER_FAILED, EventType.ENTER_CANCELLED, EventType.CRASHED),
    *(EventType.EXIT_FAILED, EventType.ABORTED, EventType.ABANDONED),
}


@dataclass(frozen=True)
class CaseRecord:
    """The result of one test.

    Attributes:
        test: its id.
        module: its file, without `.py`.
        cases: how many cases it had, by entry; "all" is the lifespan as a whole.
        seconds: how long it took.
        locations: where its faults were injected: file, line and function.
        slowest_run: the longest time from an injection to the end of a run, in seconds.
        timeline: the journal of one of its runs, if it is the sample of its family; see `timeline_of`.
    """

    test: str
    module: str
    cases: dict[str, int]
    seconds: float
    locations: list[str] = field(default_factory=list)
    slowest_run: float = 0.0
    timeline: dict[str, Any] | None = None

    @property
    def total(self) -> int:
        return sum(self.cases.values())


@dataclass
class RunData:
    """The results of a whole run of pytest."""

    cases: list[CaseRecord] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(case.total for case in self.cases)

    @property
    def seconds(self) -> float:
        return sum(case.seconds for case in self.cases)

    def of(self, family: Family) -> "RunData":
        """Return the part of one family."""
        return RunData([case for case in self.cases if case.module == family.module])

    def by_entry(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        for case in self.cases:
            counts.update(case.cases)
        return counts


def summary(run: RunData) -> Iterator[str]:
    """Yield a line for each family: its cases, its tests and its seconds."""
    for family in FAMILIES:
        part = run.of(family)
        if part.cases:
            yield f"{family.name:<18} {part.total:>5} cases {len(part.cases):>4} tests {part.seconds:>6.1f} s"


def timeline_of(runs: Sequence[LifespanRun]) -> dict[str, Any] | None:
    """Return the timeline of one run as data: the run of `SAMPLE_ENTRY`, or the one with most kinds of failures."""
    if not runs:
        return None
    swept = next((run for run in runs if run.active_entry == SAMPLE_ENTRY), None)
    run = swept or max(runs, key=lambda run: len({event.type for event in run.journal} & _FAILURES))
    return {
        "injected_at": run.injected_at and round(run.injected_at, 5),
        "journal": [
            {
                "at": round(event.at, 5),
                "event_type": event.type.value,
                "name": event.name,
                "error": format_error(event.error) if event.error else None,
            }
            for event in run.journal
        ],
    }


def recorded_run(timeline: dict[str, Any]) -> LifespanRun:
    """Return the run of a timeline."""
    return LifespanRun([recorded_event(**event) for event in timeline["journal"]], injected_at=timeline["injected_at"])


def data_of(run: RunData, command: str) -> dict[str, Any]:
    """Return the results as data for JSON."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": command,
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "cases": run.total,
        "families": {
            family.name: {
                "cases": part.total,
                "entries": dict(sorted(part.by_entry().items())),
                "seconds": round(part.seconds, 1),
                "slowest_run": round(max(case.slowest_run for case in part.cases), 4),
                "timeline": next((case.timeline for case in part.cases if case.timeline), None),
                "tests": {case.test: case.total for case in sorted(part.cases, key=lambda case: case.test)},
                "locations": sorted({location for case in part.cases for location in case.locations}),
            }
            for family in FAMILIES
            if (part := run.of(family)).cases
        },
    }


def write_report(folder: Path, data: dict[str, Any]) -> None:
    """Write the data, and what is rendered from them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULTS).write_text(json.dumps(data, indent=1) + "\n")
    render(folder)


def render(folder: Path) -> None:
    """Write the pages and the timelines of the data in `folder`. The text of the pages is that in docs/faults."""
    data = json.loads((folder / RESULTS).read_text())
    for page in PAGES:
        (folder / page).write_text(filled((DOCS / page).read_text(), data))
    for name, image in images(data).items():
        (folder / name).write_text(image)


def images(data: dict[str, Any]) -> dict[str, str]:
    """Return the timelines as SVG, by file name."""
    return {
        family.image: drawn(recorded_run(timeline), title=f"{family.name.capitalize()}: {family.caption}")
        for family in FAMILIES
        if (timeline := data["families"].get(family.name, {}).get("timeline"))
    }


def drawn(run: LifespanRun, title: str) -> str:
    """Return the timeline of a run as SVG."""
    marks = {event.type.value: event.at for event in run.journal if event.type in _MARKS}
    if run.injected_at is not None:
        marks["injected"] = run.injected_at
    return timeline_svg([bar_of(span) for span in spans(run.journal)], title=title, marks=marks)


def bar_of(span: Span) -> Bar:
    """Return the bar of an entry."""
    moments = [span.entering, span.entered, span.exiting, span.exited]
    exited = next(moment for moment in reversed(moments) if moment is not None)
    entered = exited if span.entered is None else span.entered
    exiting = exited if span.exiting is None else span.exiting
    segments = [Segment(SegmentState.ENTERING, span.entering, entered)]
    if exiting > entered:
        segments.append(Segment(SegmentState.ACTIVE, entered, exiting))
    if span.exiting is not None:
        segments.append(Segment(SegmentState.EXITING, exiting, exited))
    event, *error = span.outcome.split(": ")
    return Bar(span.name, segments, ": ".join([event, *error[:1]]), failed=event in _FAILURES)


def filled(page: str, data: dict[str, Any]) -> str:
    """Return the page with the data in its regions, which are between `<!-- results: part -->` and `<!-- end -->`."""
    families = data["families"]
    parts = {
        "run": [_run(data)],
        "families": _table(families),
        "entries": _matrix(families),
        "one fault": _printed(families.get(ONE_FAULT.name)),
        **{family.name: _details(family, families.get(family.name)) for family in FAMILIES},
    }
    texts = {part: "\n".join(lines) for part, lines in parts.items()}
    return _REGION.sub(lambda region: f"{region[1]}\n{texts[region['part']]}\n\n{region[3]}", page)


def _run(data: dict[str, Any]) -> str:
    tests = sum(len(family["tests"]) for family in data["families"].values())
    minutes = sum(family["seconds"] for family in data["families"].values()) / 60
    return (
        f"The run of {data['date']} with Python {data['python']} on {data['cores']} cores had "
        f"**{data['cases']:,} cases** in {tests:,} tests, whose times add up to {minutes:.0f} minutes. Every test passed: "
        f"otherwise this page is not written."
    )


def _table(families: dict[str, Any]) -> Iterator[str]:
    yield "| family | what is injected | where | cases | read this test |"
    yield "| --- | --- | --- | ---: | --- |"
    for family in FAMILIES:
        if family.name in families:
            anchor = family.name.replace(" ", "-")
            yield (
                f"| [{family.name}](#{anchor}) | {family.injected} | {family.where} "
                f"| {families[family.name]['cases']:,} | [{family.first_test}](../../{family.file}) |"
            )


def _matrix(families: dict[str, Any]) -> Iterator[str]:
    """Yield a table: a row for each family, a column for each entry."""
    entries = [*ENTRIES, "all"]
    yield f"| family | {' | '.join(entries)} |"
    yield f"| --- |{' ---: |' * len(entries)}"
    for name, family in families.items():
        counts = [family["entries"].get(entry) for entry in entries]
        yield f"| {name} | {' | '.join(f'{count:,}' if count else '' for count in counts)} |"


def _details(family: Family, results: dict[str, Any] | None) -> Iterator[str]:
    """Yield the timeline of a family, its counts, and the command that draws the timeline."""
    if results is None:
        yield "No test of this family was run."
        return
    counts = f"{results['cases']:,} cases in {len(results['tests']):,} tests."
    if results["locations"]:
        counts += (
            f" They inject at {len(results['locations'])} places in the code, and each run ended within "
            f"{results['slowest_run'] * 1000:.0f} ms of the injection."
        )
    yield counts
    yield ""
    if results["timeline"]:
        yield f"![Timeline of a run of this family]({family.image})"
        yield ""
    yield family.caption
    yield ""
    yield "```console"
    yield f'$ .venv/bin/pytest -m "" --timeline "{family.sample_id}"'
    yield "```"


def _printed(results: dict[str, Any] | None) -> Iterator[str]:
    """Yield the timeline of one fault as `--timeline` prints it."""
    if results and results["timeline"]:
        yield "```text"
        yield from (line.rstrip() for line in recorded_run(results["timeline"]).timeline())
        yield "```"


if __name__ == "__main__":
    render(Path(sys.argv[1]))
