"""A target compares a measured value with its bound."""

import pytest

from benchmarks.cases import OVERLOAD, TUTORIAL_BRIEF, WARM, WARM_128
from benchmarks.results import BenchmarkRun
from benchmarks.targets import Target, all_targets
from tests.benchmarks.runs import make_result, make_run


def target(run: BenchmarkRun, name_prefix: str) -> Target:
    return next(target for target in all_targets(run) if target.name.startswith(name_prefix))


@pytest.mark.parametrize(("rate", "met"), [(219, False), (220, True), (400, True)])
def test_minimum_is_inclusive(rate: float, met: bool) -> None:
    """The target of 22 times the tutorial is met from exactly 22 on."""
    run = make_run((WARM, [make_result(rate)]), (TUTORIAL_BRIEF, [make_result(10)]))

    assert target(run, "warm brief / tutorial").met is met


@pytest.mark.parametrize(("p99_ms", "met"), [(2, True), (3, True), (3.1, False)])
def test_maximum_is_inclusive(p99_ms: float, met: bool) -> None:
    """The target of at most three times the median latency is met up to exactly three."""
    run = make_run((WARM, [make_result(1, p50_ms=1, p99_ms=p99_ms)]))

    assert target(run, "warm brief, p99 / p50").met is met


def test_start_is_compared_with_imports() -> None:
    """The median of the ratios counts: each start follows an import of the libraries alone."""
    start = target(make_run(), "start to first response")

    assert start.value == pytest.approx(1.4)
    assert start.met is False


def test_memory_has_a_target() -> None:
    """The memory of the gateway at rest is compared."""
    assert target(make_run(), "memory").met is False


def test_overload_is_compared_with_the_best_rate() -> None:
    """The best rate is the highest of the numbers of connections that were measured."""
    run = make_run((WARM, [make_result(90)]), (WARM_128, [make_result(100)]), (OVERLOAD, [make_result(80)]))

    assert target(run, "overload, complete").value == pytest.approx(0.8)


def test_target_without_value_is_not_run() -> None:
    """Without a measurement a target is neither met nor missed."""
    run = make_run((WARM, [make_result(1)]))

    fastify = target(run, "warm brief / Fastify, tuned")

    assert (fastify.value, fastify.met, fastify.verdict) == (None, None, "not run")
