"""The performance targets of the gateway, and whether a run meets them."""

from dataclasses import dataclass
from statistics import median

from benchmarks import cases
from benchmarks.cases import Case
from benchmarks.contender_registry import GATEWAY
from benchmarks.results import (
    BenchmarkRun,
    cpu_us,
    median_of,
    median_ratio,
    p50_ms,
    p99_ms,
    peak_memory_mib,
    recovery_s,
    requests_per_second,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A measured value and its bound.

    Attributes:
        name: a phrase for the report.
        value: the measured value; None: it was not measured.
        minimum: the lower bound, or None.
        maximum: the upper bound, or None. Without any bound, the value is only reported.
        stretch: a more ambitious lower bound.
        unit: "x" for a ratio.
    """

    name: str
    value: float | None
    minimum: float | None = None
    maximum: float | None = None
    stretch: float | None = None
    unit: str = ""

    @property
    def met(self) -> bool | None:
        """True if the value is within the bound. None: there is no value or no bound."""
        if self.value is None or (self.minimum is None and self.maximum is None):
            return None
        return (self.minimum is None or self.value >= self.minimum) and (
            self.maximum is None or self.value <= self.maximum
        )

    @property
    def bound(self) -> str:
        """The bound in words."""
        if self.minimum is not None:
            stretch = "" if self.stretch is None else f" (stretch {self.stretch:g})"
            return f"at least {self.minimum:g}{self.unit}{stretch}"
        return "-" if self.maximum is None else f"at most {self.maximum:g}{self.unit}"

    @property
    def verdict(self) -> str:
        """The result in words."""
        return {True: "met", False: "not met", None: "-"}[self.met] if self.value is not None else "not run"


def all_targets(run: BenchmarkRun) -> list[Target]:
    """Return all targets with the values of a run. Their names and their order are the same for all runs."""
    return [*_warm_briefs(run), *_cold_briefs(run), *_writes(run), *_overload(run), *_process(run)]


def _warm_briefs(run: BenchmarkRun) -> list[Target]:
    def ratio(reference: Case, case: Case = cases.WARM) -> float | None:
        return median_ratio(run, case, reference, requests_per_second)

    return [
        Target(name="warm brief / tutorial", value=ratio(cases.TUTORIAL_BRIEF), minimum=22, stretch=25, unit="x"),
        Target(name="warm brief / new clients for every request", value=ratio(cases.PER_REQUEST_BRIEF), unit="x"),
        Target(name="warm brief / FastAPI hello", value=ratio(cases.FASTAPI_CEILING), minimum=0.6, unit="x"),
        Target(name="warm brief / Fastify, tuned", value=ratio(cases.FASTIFY_WARM), minimum=1.1, stretch=1.3, unit="x"),
        Target(
            name="warm brief / Fastify, tuned, both with 128 connections",
            value=ratio(cases.FASTIFY_WARM_128, cases.WARM_128),
            minimum=0.95,
            unit="x",
        ),
        Target(name="warm brief / Fastify, shared", value=ratio(cases.FASTIFY_SHARED_WARM), unit="x"),
        Target(
            name="warm brief, 128 connections / 32", value=ratio(cases.WARM, cases.WARM_128), minimum=0.95, unit="x"
        ),
        Target(name="warm brief, 512 connections / 32", value=ratio(cases.WARM, cases.WARM_512), minimum=0.9, unit="x"),
        Target(
            name="warm brief, p99 / p50",
            value=median_ratio(run, cases.WARM, cases.WARM, p99_ms, p50_ms),
            maximum=3,
            unit="x",
        ),
        Target(
            name="warm brief, p50 while the upstream is down / p50",
            value=median_ratio(run, cases.UPSTREAM_DOWN, cases.WARM, p50_ms),
            maximum=1.5,
            unit="x",
        ),
    ]


def _cold_briefs(run: BenchmarkRun) -> list[Target]:
    def ratio(reference: Case) -> float | None:
        return median_ratio(run, cases.COLD, reference, requests_per_second)

    return [
        Target(name="cold brief / one call for each place", value=ratio(cases.COLD_ONE_BY_ONE), minimum=2.5, unit="x"),
        Target(name="cold brief / Fastify, tuned", value=ratio(cases.COLD_FASTIFY), unit="x"),
        Target(name="cold brief / Fastify, shared", value=ratio(cases.COLD_FASTIFY_SHARED), unit="x"),
        Target(
            name="cold brief, one client, p50 / p50 of its slowest backend call",
            value=median_ratio(run, cases.SINGLE_CLIENT_COLD, cases.SINGLE_CLIENT_UPSTREAM, p50_ms),
            maximum=1.1,
            unit="x",
        ),
    ]


def _writes(run: BenchmarkRun) -> list[Target]:
    def ratio(reference: Case) -> float | None:
        return median_ratio(run, cases.WRITE, reference, requests_per_second)

    return [
        Target(name="write / one by one", value=ratio(cases.WRITE_ONE_BY_ONE), minimum=4, unit="x"),
        Target(
            name="write, CPU time of PostgreSQL / one by one",
            value=median_ratio(run, cases.WRITE, cases.WRITE_ONE_BY_ONE, cpu_us("postgresql")),
            maximum=0.4,
            unit="x",
        ),
        Target(name="write / Fastify, tuned", value=ratio(cases.WRITE_FASTIFY), unit="x"),
        Target(name="write / Fastify, shared", value=ratio(cases.WRITE_FASTIFY_SHARED), unit="x"),
    ]


def _overload(run: BenchmarkRun) -> list[Target]:
    in_time = median_of(run, cases.OVERLOAD, requests_per_second)
    rates = [median_of(run, case, requests_per_second) for case in (cases.WARM, cases.WARM_128, cases.WARM_512)]
    best = max((rate for rate in rates if rate is not None), default=None)
    return [
        Target(
            name=f"overload, complete within {cases.RESPONSE_TIMEOUT:g} s / best rate",
            value=None if in_time is None or best is None else in_time / best,
            minimum=0.8,
            unit="x",
        ),
        Target(
            name="overload, p99 of accepted requests",
            value=median_of(run, cases.OVERLOAD, p99_ms),
            maximum=900,
            unit=" ms",
        ),
        Target(
            name="overload, highest memory (RSS)",
            value=median_of(run, cases.OVERLOAD, peak_memory_mib),
            maximum=200,
            unit=" MiB",
        ),
        Target(
            name="overload, recovery",
            value=median_of(run, cases.OVERLOAD, recovery_s),
            maximum=2,
            unit=" s",
        ),
    ]


def _process(run: BenchmarkRun) -> list[Target]:
    starts = zip(run.first_response_s, run.imports_s, strict=False)
    return [
        Target(
            name="start to first response / imports of the libraries alone",
            value=median([response / imports for response, imports in starts]) if run.imports_s else None,
            maximum=1.15,
            unit="x",
        ),
        Target(
            name="memory at rest, model loaded (RSS)",
            value=run.memory_mib.get(GATEWAY.name),
            maximum=150,
            unit=" MiB",
        ),
    ]
