"""What the report says of a run that somebody made up."""

from datetime import UTC, datetime

import pytest

from benchmarks import cases
from benchmarks.cases import Case
from benchmarks.load import Tally
from benchmarks.report import markdown, summary
from benchmarks.runner import Run
from benchmarks.targets import Aim, aims, per_second, ratio


def tally(rate: float, *, p50_ms: float = 1, p99_ms: float = 2) -> Tally:
    return Tally(
        answers=100, per_second=rate, p50_ms=p50_ms, p99_ms=p99_ms, cpu_us={"application": 9}, cores={"application": 1}
    )


def a_run(**tallies: list[Tally]) -> Run:
    return Run(
        began=datetime(2026, 1, 2, tzinfo=UTC),
        machine={"cores": "2", "Python": "3.11", "Node": "none"},
        rounds=3,
        seconds=1,
        places=300,
        not_run={"Fastify, tuned": "there is no Node.js"},
        first_answers_s=[0.5, 0.9, 0.7],
        memory_mib={"gateway": 151},
        tallies={_CASES[name].name: its for name, its in tallies.items()},
    )


_CASES: dict[str, Case] = {"ours": cases.WARM, "tutorial": cases.TUTORIAL_BRIEF, "dead": cases.DEAD}


def aim_of(run: Run, beginning: str) -> Aim:
    return next(aim for aim in aims(run) if aim.what.startswith(beginning))


def test_a_ratio_is_taken_within_a_round() -> None:
    """The second round met a machine ten times as slow: of the medians it would be 240 to 20, of the rounds it is 10."""
    run = a_run(ours=[tally(1000), tally(100), tally(240)], tutorial=[tally(100), tally(10), tally(20)])
    assert ratio(run, cases.WARM, cases.TUTORIAL_BRIEF, per_second) == pytest.approx(10)


def test_in_a_round_the_median_counts_of_what_was_measured_more_than_once() -> None:
    rounds = [(900, 1000, 10), (100, 1, 90), (240, 230, 9000)]
    run = a_run(ours=[tally(rate) for each in rounds for rate in each], tutorial=[tally(100), tally(10), tally(20)])
    assert ratio(run, cases.WARM, cases.TUTORIAL_BRIEF, per_second) == pytest.approx(9)


@pytest.mark.parametrize(("rate", "met"), [(219, False), (220, True), (400, True)])
def test_an_aim_from_below_is_met_from_its_bound_on(rate: float, met: bool) -> None:
    aim = aim_of(a_run(ours=[tally(rate)], tutorial=[tally(10)]), "requests/s, of the tutorial's")
    assert aim.met is met


@pytest.mark.parametrize(("late", "met"), [(2, True), (3, True), (3.1, False)])
def test_an_aim_from_above_is_met_up_to_its_bound(late: float, met: bool) -> None:
    assert aim_of(a_run(ours=[tally(1, p50_ms=1, p99_ms=late)]), "p99").met is met


def test_figures_of_the_start_and_of_memory_are_judged() -> None:
    assert aim_of(a_run(), "start").value == 0.7
    assert aim_of(a_run(), "start").met
    assert aim_of(a_run(), "memory").met is False


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    aim = aim_of(a_run(ours=[tally(1)]), "requests/s, of Fastify, tuned")
    assert (aim.value, aim.met, aim.verdict) == (None, None, "not run")


def test_the_report_says_what_was_not_run_and_what_was_not_met() -> None:
    run = a_run(ours=[tally(1000)], tutorial=[tally(100)])
    page = markdown(run, [("throughput.svg", "Requests a second")], "benchmarks")
    assert "not run: there is no Node.js" in page
    assert "| requests/s, of the tutorial's | at least 22x (stretch 30) | 10x | **not met** |" in page
    assert "![Requests a second](benchmarks/throughput.svg)" in page
    assert "not met  requests/s, of the tutorial's" in summary(run)
