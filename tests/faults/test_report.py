"""The report and the timelines."""

import re

from faultlab.wire import Closed, ClosedBy
from gateway.lifecycle import EventType, Journal
from tests.faults import test_server_rejections
from tests.faults.families import FAMILIES
from tests.faults.harness import FaultLab
from tests.faults.lifespan_run import LifespanRun
from tests.faults.report import HEAD, CaseRecord, RunData, data_of, markdown, summary
from tests.faults.report_plugin import claim_of, drawing

RUN = RunData(
    [
        CaseRecord("tests/faults/test_wire_faults.py::test_a[HELLO]", "test_wire_faults", {"redis": 1}, 0.5),
        CaseRecord("tests/faults/test_wire_faults.py::test_a[PING]", "test_wire_faults", {"redis": 2}, 0.5),
        CaseRecord("tests/faults/test_wire_faults.py::test_a[Startup]", "test_wire_faults", {"database": 4}, 0.5),
        CaseRecord(
            "tests/faults/test_cancellation.py::test_b",
            "test_cancellation",
            {"redis": 2, "all": 1},
            1.5,
            ["gateway/a.py:1 f", "gateway/b.py:2 g"],
            0.0123,
            ["0.1 ms  entering http"],
        ),
    ]
)


def test_every_family_has_a_file_of_tests() -> None:
    """Each family is one file, which has a test whose timeline the report shows."""
    for family in FAMILIES:
        source = HEAD.with_name(f"{family.module}.py").read_text()
        assert family.sample.partition("[")[0] in source


def test_data_has_cases_by_family_and_entry() -> None:
    """The data of the report count the cases of each family, entry and test."""
    data = data_of(RUN, "pytest")

    assert data["cases"] == 10
    assert data["families"]["wire fault"]["entries"] == {"database": 4, "redis": 3}
    assert data["families"]["wire fault"]["tests"]["tests/faults/test_wire_faults.py::test_a[PING]"] == 2
    assert data["families"]["cancellation"]["locations"] == ["gateway/a.py:1 f", "gateway/b.py:2 g"]
    assert "signal" not in data["families"]


def test_page_has_a_matrix_of_entries_and_families() -> None:
    """The page has the command, the totals, one matrix and a section for each family that was run."""
    page = markdown(RUN, "pytest tests/faults")

    assert "`pytest tests/faults`" in page
    assert "**10 cases** in 4 tests" in page
    assert "| entry | cancellation | wire fault |\n| --- | ---: | ---: |\n" in page
    assert "| database |  | 4 |\n| redis | 2 | 3 |" in page
    assert "| all | 1 |  |" in page
    assert "3 injections at 2 places in the code; each run ended within 12 ms" in page
    assert "0.1 ms  entering http" in page
    assert "$ pytest -m '' tests/faults/test_wire_faults.py --timeline" in page
    assert "## Signal" not in page


def test_summary_has_a_line_for_each_family() -> None:
    """The summary of a test session counts cases, tests and seconds of each family."""
    lines = [" ".join(line.split()) for line in summary(RUN)]

    assert lines == ["cancellation 3 cases 1 tests 1.5 s", "wire fault 7 cases 3 tests 1.5 s"]


def test_timeline_shows_active_entries() -> None:
    """A timeline has a line for each event, with the entries that are active after it, and for each closed connection."""
    now = iter(range(10))
    journal = Journal(clock=lambda: next(now))
    for event_type, name, error in [
        (EventType.ENTERING, "http", None),
        (EventType.ENTERED, "http", None),
        (EventType.ENTERING, "redis", None),
        (EventType.ENTER_FAILED, "redis", OSError("refused")),
        (EventType.EXITING, "http", None),
        (EventType.ABORTED, "http", None),
    ]:
        journal.record(event_type, name, error)
    run = LifespanRun(journal, wire=[Closed(0.0, "http", 1, ClosedBy.CLIENT, False, "request head")])

    assert [" ".join(line.split()) for line in run.timeline()] == [
        "1000.0 ms entering http active: none",
        "2000.0 ms entered http active: http",
        "3000.0 ms entering redis active: http",
        "4000.0 ms enter failed redis active: http OSError: refused",
        "5000.0 ms exiting http active: http",
        "6000.0 ms aborted http active: none",
        "on the wire: http 1 closed by the client after request head",
    ]


async def test_sample_in_the_report_is_real(lab: FaultLab) -> None:
    """The timeline at the head of the report is what its test prints, except for the numbers."""
    sample = HEAD.read_text().partition("```console\n")[2].partition("\n```")[0]
    command, _, printed = sample.partition("\n\n")
    test = test_server_rejections.TestRabbitMQ.test_forbidden_vhost
    await test(test_server_rejections.TestRabbitMQ(), lab)

    assert command.removeprefix("$ pytest tests/faults -k ").removesuffix(" --timeline") in test.__name__
    assert without_numbers(printed) == without_numbers("\n".join(drawing(claim_of(test), lab)))


def without_numbers(text: str) -> str:
    return re.sub(r" *\d+(\.\d+)*", " 0", text)
