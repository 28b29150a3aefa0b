"""A target compares a measured value with its bound."""

import pytest

from benchmarks.cases import TUTORIAL_BRIEF, WARM
from benchmarks.results import BenchmarkRun
from benchmarks.targets import Target, all_targets
from tests.benchmarks.runs import make_result, make_run


def target(run: BenchmarkRun, name_prefix: str) -> Target:
    return next(target for target in all_targets(run) if target.name.startswith(name_prefix))


@pytest.mark.parametrize(("rate", "met"), [(219, False), (220, True), (400, True)])
def test_minimum_is_inclusive(rate: float, met: bool) -> None:
    """The target of 22 times the tutorial is met from exactly 22 on."""
    run = make_run((WARM, [make_result(rate)]), (TUTORIAL_BRIEF, [make_result(10)]))

    assert target(run, "requests/s / those of the tutorial").met is met


@pytest.mark.parametrize(("p99_ms", "met"), [(2, True), (3, True), (3.1, False)])
def test_maximum_is_inclusive(p99_ms: float, met: bool) -> None:
    """The target of at most three times the median latency is met up to exactly three."""
    run = make_run((WARM, [make_result(1, p50_ms=1, p99_ms=p99_ms)]))

    assert target(run, "p99 / p50").met is met


def test_start_time_and_memory_have_targets() -> None:
    """The median of the start times is compared, and the memory of the gateway."""
    run = make_run()

    assert target(run, "time from the start").value == 0.7
    assert target(run, "time from the start").met
    assert target(run, "memory").met is False


def test_target_without_value_is_not_run() -> None:
    """Without a measurement a target is neither met nor missed."""
    run = make_run((WARM, [make_result(1)]))

    fastify = target(run, "requests/s / those of Fastify, tuned")

    assert (fastify.value, fastify.met, fastify.verdict) == (None, None, "not run")
