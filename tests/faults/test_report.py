"""The report and the timelines: what they say of a run."""

import re

from gateway.devstack.stack import Devstack
from gateway.lifecycle import EventType, Journal
from gateway.settings import Settings
from tests.faults import test_refusals
from tests.faults.recording import Record, claim, timeline
from tests.faults.report import HEAD, Proof, Run, data_of, markdown
from tests.faults.stage import Stage

KILLED = "tests/faults/test_x.py::test_a_killed_server[redis-{}]"


def a_run() -> Run:
    proofs = [
        Proof("tests/faults/test_x.py::test_a_reset[HELLO]", "redis", "startup", "reset", 1),
        Proof("tests/faults/test_x.py::test_a_reset[PING]", "redis", "startup", "reset", 2),
        Proof("tests/faults/test_x.py::test_a_reset[Startup]", "database", "startup", "reset", 4),
        *(Proof(KILLED.format(number), "redis", "teardown", "SIGKILL", 1) for number in range(3)),
    ]
    return Run(proofs, {proof.test: 0.5 for proof in proofs}, {"points": "106 points"})


def test_a_cell_counts_its_cases_and_names_the_command_that_replays_them() -> None:
    database, started, stopped = data_of(a_run(), "pytest")["cells"]

    assert (database["resource"], database["cases"]) == ("database", 4)
    assert (started["resource"], started["cases"]) == ("redis", 3)
    assert started["replay"] == (
        "pytest -m '' 'tests/faults/test_x.py::test_a_reset[HELLO]' 'tests/faults/test_x.py::test_a_reset[PING]'"
    )
    assert stopped["replay"] == "pytest -m '' tests/faults/test_x.py::test_a_killed_server"


def test_the_page_has_a_matrix_of_each_phase_in_the_order_of_the_lifespan() -> None:
    page = markdown(a_run(), "pytest tests/faults")

    assert "`pytest tests/faults`" in page
    assert "**10 cases** in 6 tests" in page
    assert "- 106 points" in page
    assert "| fault | database | redis |\n| --- | ---: | ---: |\n| reset | 4 | 3 |" in page
    assert "| fault | redis |\n| --- | ---: |\n| SIGKILL | 3 |" in page
    assert "## Serving" not in page
    assert "| `tests/faults/test_x.py::test_a_reset` | 7 | 1.5 |" in page


def test_a_timeline_says_what_is_held_after_each_step() -> None:
    now = iter(range(10))
    journal = Journal(clock=lambda: next(now))
    for kind, name, error in [
        (EventType.ENTERING, "http", None),
        (EventType.ENTERED, "http", None),
        (EventType.ENTERING, "redis", None),
        (EventType.ENTER_FAILED, "redis", OSError("refused")),
        (EventType.EXITING, "http", None),
        (EventType.ABORTED, "http", None),
    ]:
        journal.record(kind, name, error)

    assert [" ".join(line.split()) for line in timeline(journal)] == [
        "1000.0 ms entering http holds nothing",
        "2000.0 ms entered http holds http",
        "3000.0 ms entering redis holds http",
        "4000.0 ms enter failed redis holds http OSError: refused",
        "5000.0 ms exiting http holds http",
        "6000.0 ms aborted http holds nothing",
    ]


async def test_the_sample_in_the_docs_is_what_its_case_prints_but_for_the_numbers(
    servers: Devstack, settings: Settings
) -> None:
    sample = HEAD.read_text().partition("```console\n")[2].partition("\n```")[0]
    command, _, printed = sample.partition("\n\n")
    of, case = (
        test_refusals.TestRabbitMQ,
        test_refusals.TestRabbitMQ.test_with_a_vhost_that_is_not_for_us_says_so_at_once,
    )
    record = Record(Run(), "", draws=True)
    await case(of(), Stage(servers, settings, record))

    assert command.removeprefix("$ pytest tests/faults -k ").removesuffix(" --timeline") in case.__name__
    assert without_numbers(printed) == without_numbers("\n".join([claim(case.__name__, of), *record.drawn]))


def without_numbers(text: str) -> str:
    return re.sub(r" *\d+(\.\d+)*", " 0", text)
