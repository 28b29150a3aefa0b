"""Ratios are computed within a round."""

import pytest

from benchmarks.cases import TUTORIAL_BRIEF, WARM
from benchmarks.results import median_ratio, requests_per_second
from tests.benchmarks.runs import make_result, make_run


def test_ratio_is_the_median_of_the_rounds() -> None:
    """In the second round the machine is ten times slower. The ratio of the medians is 12, that of the rounds is 10."""
    run = make_run(
        (WARM, [make_result(1000), make_result(100), make_result(240)]),
        (TUTORIAL_BRIEF, [make_result(100), make_result(10), make_result(20)]),
    )

    assert median_ratio(run, WARM, TUTORIAL_BRIEF, requests_per_second) == pytest.approx(10)


def test_ratio_uses_the_median_within_a_round() -> None:
    """If a round measures a case several times, its median counts."""
    rounds = [(900, 1000, 10), (100, 1, 90), (240, 230, 9000)]
    run = make_run(
        (WARM, [make_result(rate) for rates in rounds for rate in rates]),
        (TUTORIAL_BRIEF, [make_result(100), make_result(10), make_result(20)]),
    )

    assert median_ratio(run, WARM, TUTORIAL_BRIEF, requests_per_second) == pytest.approx(9)
