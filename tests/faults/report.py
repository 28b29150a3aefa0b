"""The report of a run: the families with their counts, a matrix of families and entries, and a timeline of each family."""

import os
import platform
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.faults.families import FAMILIES, Family
from tests.support.entries import ENTRIES

HEAD = Path(__file__).with_name("report_head.md")


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
        timeline: of one of its runs, if it is the sample of its family.
    """

    test: str
    module: str
    cases: dict[str, int]
    seconds: float
    locations: list[str] = field(default_factory=list)
    slowest_run: float = 0.0
    timeline: list[str] = field(default_factory=list)

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


def data_of(run: RunData, command: str) -> dict[str, Any]:
    """Return the report as data for JSON."""
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
                "tests": {case.test: case.total for case in sorted(part.cases, key=lambda case: case.test)},
                "locations": sorted({location for case in part.cases for location in case.locations}),
            }
            for family in FAMILIES
            if (part := run.of(family)).cases
        },
    }


def markdown(run: RunData, command: str) -> str:
    """Return the report as a page."""
    data = data_of(run, command)
    lines = [
        HEAD.read_text().rstrip(),
        "",
        "## The run",
        "",
        (
            f"{data['date']}, `{command}`, Python {data['python']}, {data['cores']} cores: **{run.total} cases** in "
            f"{len(run.cases)} tests, {run.seconds:.0f} s. Every test passed: otherwise this page is not written."
        ),
        "",
        "| family | what is injected | where | cases | tests | seconds |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    families = [family for family in FAMILIES if run.of(family).cases]
    for family in families:
        part = run.of(family)
        lines.append(
            f"| [{family.name}](#{family.name.replace(' ', '-')}) | {family.injected} | {family.where} "
            f"| {part.total} | {len(part.cases)} | {part.seconds:.0f} |"
        )
    lines += ["", "## Cases by entry", "", *_matrix(run, families)]
    for family in families:
        lines += ["", *_section(run.of(family), family)]
    return "\n".join(lines) + "\n"


def _matrix(run: RunData, families: list[Family]) -> Iterator[str]:
    """Yield a table: a row for each entry, a column for each family. "all" is the lifespan as a whole."""
    yield f"| entry | {' | '.join(family.name for family in families)} |"
    yield f"| --- |{' ---: |' * len(families)}"
    counts = {family.name: run.of(family).by_entry() for family in families}
    for entry in [*ENTRIES, "all"]:
        yield f"| {entry} | {' | '.join(str(counts[family.name][entry] or '') for family in families)} |"


def _section(part: RunData, family: Family) -> Iterator[str]:
    yield f"## {family.name.capitalize()}"
    yield ""
    yield f"Injected: {family.injected}. Where: {family.where}. {family.claim}"
    locations = {location for case in part.cases for location in case.locations}
    if locations:
        slowest = max(case.slowest_run for case in part.cases)
        yield (
            f"{part.total} injections at {len(locations)} places in the code; each run ended within "
            f"{slowest * 1000:.0f} ms of the injection."
        )
    yield ""
    yield "```console"
    yield f"$ pytest -m '' tests/faults/{family.module}.py --timeline"
    yield "```"
    for case in part.cases:
        if case.timeline:
            yield ""
            yield f"`{case.test.rpartition('::')[2]}`:"
            yield ""
            yield "```text"
            yield from (line.rstrip() for line in case.timeline)
            yield "```"
