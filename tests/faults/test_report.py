"""The report and the timelines."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from faultlab.timeline_svg import Bar, Segment, SegmentState
from faultlab.wire import Closed, ClosedBy
from gateway.lifecycle import EventType, Journal, LifecycleEvent, spans
from tests.faults.families import FAMILIES
from tests.faults.lifespan_run import LifespanRun
from tests.faults.report import (
    DOCS,
    PAGES,
    RESULTS,
    CaseRecord,
    RunData,
    bar_of,
    data_of,
    drawn,
    filled,
    images,
    recorded_run,
    summary,
    timeline_of,
    write_report,
)

ROOT = DOCS.parents[1]
MAX_FILE_BYTES = {".svg": 10_000, ".json": 1_000_000}


def failed_run() -> LifespanRun:
    """A run in which the redis entry fails to start."""
    now = iter(range(10))
    journal = Journal(clock=lambda: next(now))
    for event_type, name, error in [
        (EventType.ENTERING, "http", None),
        (EventType.ENTERED, "http", None),
        (EventType.ENTERING, "redis", None),
        (EventType.ENTER_FAILED, "redis", OSError("refused: no server")),
        (EventType.STOPPING, None, None),
        (EventType.EXITING, "http", None),
        (EventType.ABORTED, "http", None),
    ]:
        journal.record(event_type, name, error)
    return LifespanRun([*journal], wire=[Closed(0.0, "http", 1, ClosedBy.CLIENT, False, "request head")])


def clean_run() -> LifespanRun:
    """A run with more kinds of events than `failed_run()`, none of them a failure."""
    types = [EventType.ENTERING, EventType.ENTERED, EventType.STARTED, EventType.STOPPING]
    types += [EventType.EXITING, EventType.EXITED, EventType.STOPPED]
    return LifespanRun([LifecycleEvent(at, event_type) for at, event_type in enumerate(types)])


RUN = RunData(
    [
        CaseRecord("tests/faults/test_wire_faults.py::test_a[HELLO]", "test_wire_faults", {"redis": 1}, 0.5),
        CaseRecord("tests/faults/test_wire_faults.py::test_a[PING]", "test_wire_faults", {"redis": 2}, 0.5),
        CaseRecord("tests/faults/test_wire_faults.py::test_a[Startup]", "test_wire_faults", {"database": 4000}, 0.5),
        CaseRecord(
            "tests/faults/test_cancellation.py::test_b",
            "test_cancellation",
            {"redis": 2, "all": 1},
            118.5,
            ["gateway/a.py:1 f", "gateway/b.py:2 g"],
            0.0123,
            timeline_of([failed_run()]),
        ),
    ]
)


def test_families_have_their_tests() -> None:
    """Each family is one file, which has the test to read first and the test whose timeline the page shows."""
    collect = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "", "tests/faults"]
    done = subprocess.run(collect, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603 - our own tests
    for family in FAMILIES:
        assert re.search(rf"^{family.file}::(\w+::)?{family.first_test}\b", done.stdout, re.MULTILINE)
        assert family.sample_id in done.stdout.splitlines()


def test_data_has_cases_by_family_and_entry() -> None:
    """The data of the report count the cases of each family, entry and test."""
    data = data_of(RUN, "pytest")

    assert data["cases"] == 4006
    assert data["families"]["wire fault"]["entries"] == {"database": 4000, "redis": 3}
    assert data["families"]["wire fault"]["tests"]["tests/faults/test_wire_faults.py::test_a[PING]"] == 2
    assert data["families"]["cancellation"]["locations"] == ["gateway/a.py:1 f", "gateway/b.py:2 g"]
    assert data["families"]["cancellation"]["slowest_run"] == 0.0123
    assert "signal" not in data["families"]


def test_report_fills_a_copy_of_the_pages(tmp_path: Path) -> None:
    """The page has the totals, one table of families, one of entries, and a section for each family that was run."""
    write_report(tmp_path, data_of(RUN, "pytest tests/faults"))
    page = (tmp_path / "README.md").read_text()

    assert "**4,006 cases** in 4 tests, whose times add up to 2 minutes" in page
    assert "| family | http | database | redis | rabbitmq |" in page
    assert "| cancellation |  |  | 2 |  |  |  |  |  |  | 1 |" in page
    assert "| wire fault |  | 4,000 | 3 |  |  |  |  |  |  |  |" in page
    assert "3 cases in 1 tests. They inject at 2 places in the code, and each run ended within 12 ms" in page
    assert f"]({FAMILIES[0].image})" in page
    assert f'$ .venv/bin/pytest -m "" --timeline "{FAMILIES[0].sample_id}"' in page
    assert page.count("No test of this family was run.") == len(FAMILIES) - 2
    assert "## Signal" in page
    assert json.loads((tmp_path / RESULTS).read_text())["command"] == "pytest tests/faults"
    assert (tmp_path / FAMILIES[0].image).read_text().startswith("<svg")


def test_pages_are_those_of_the_results() -> None:
    """The pages and the timelines are rendered from the results. `python -m tests.faults.report docs/faults` does that."""
    data = json.loads((DOCS / RESULTS).read_text())

    for page in PAGES:
        text = (DOCS / page).read_text()
        assert text == filled(text, data)
    assert images(data) == {path.name: path.read_text() for path in DOCS.glob("*.svg")}
    assert len(images(data)) == len(FAMILIES)


@pytest.mark.parametrize("suffix", MAX_FILE_BYTES)
def test_files_of_the_pages_are_small(suffix: str) -> None:
    """A timeline has less than 10 kB, the data have less than 1 MB."""
    sizes = [path.stat().st_size for path in DOCS.glob(f"*{suffix}")]

    assert 0 < max(sizes) < MAX_FILE_BYTES[suffix]


def test_summary_has_a_line_for_each_family() -> None:
    """The summary of a test session counts cases, tests and seconds of each family."""
    lines = [" ".join(line.split()) for line in summary(RUN)]

    assert lines == ["cancellation 3 cases 1 tests 118.5 s", "wire fault 4003 cases 3 tests 1.5 s"]


def test_timeline_shows_active_entries() -> None:
    """A timeline has a line for each event, with the entries that are active after it, and for each closed connection."""
    assert [" ".join(line.split()) for line in failed_run().timeline()] == [
        "1000.0 ms entering http active: none",
        "2000.0 ms entered http active: http",
        "3000.0 ms entering redis active: http",
        "4000.0 ms enter failed redis active: http OSError: refused: no server",
        "5000.0 ms stopping active: http",
        "6000.0 ms exiting http active: http",
        "7000.0 ms aborted http active: none",
        "on the wire: http 1 closed by the client after request head",
    ]


def test_timeline_has_a_bar_for_each_entry() -> None:
    """The drawn timeline has the states of each entry, the type of its error, and the moments of the stack."""
    run = failed_run()

    assert [bar_of(span) for span in spans(run.journal)] == [
        Bar(
            "http",
            [
                Segment(SegmentState.ENTERING, 1, 2),
                Segment(SegmentState.ACTIVE, 2, 6),
                Segment(SegmentState.EXITING, 6, 7),
            ],
            "aborted",
            failed=True,
        ),
        Bar("redis", [Segment(SegmentState.ENTERING, 3, 4)], "enter failed: OSError", failed=True),
    ]
    assert "stopping at 5000 ms" in drawn(run, "a failed start")


def test_timeline_is_recorded() -> None:
    """A run that is read from the results has the same timeline as before."""
    run = failed_run()
    recorded = timeline_of([run])

    assert recorded is not None
    assert [*recorded_run(recorded).timeline()] == [*LifespanRun(run.journal).timeline()]
    assert drawn(recorded_run(recorded), "a failed start") == drawn(run, "a failed start")


def test_timeline_is_that_of_the_sample_entry() -> None:
    """Of a sweep, the first run with an injection in RabbitMQ is drawn, otherwise the run with most kinds of failures."""
    swept = LifespanRun(active_entry="rabbitmq", injected_at=1.5)
    timeline = timeline_of([LifespanRun(active_entry="redis"), swept, failed_run()])

    assert timeline == {"injected_at": 1.5, "journal": []}
    assert "injected at 1500 ms" in drawn(swept, "an injection")
    assert timeline_of([clean_run(), failed_run()]) == timeline_of([failed_run()])
    assert timeline_of([]) is None
