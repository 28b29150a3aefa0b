"""The performance targets of the gateway, and whether a run meets them."""

from dataclasses import dataclass
from statistics import median

from benchmarks import cases
from benchmarks.cases import Case
from benchmarks.contender_registry import GATEWAY
from benchmarks.results import BenchmarkRun, median_ratio, p50_ms, p99_ms, requests_per_second


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
        return "as close to 1 as possible" if self.maximum is None else f"at most {self.maximum:g}{self.unit}"

    @property
    def verdict(self) -> str:
        """The result in words, as Markdown."""
        return {True: "met", False: "**not met**", None: "-"}[self.met] if self.value is not None else "not run"


def all_targets(run: BenchmarkRun) -> list[Target]:
    """Return all targets with the values of a run."""
    first_response_s = run.first_response_s

    def throughput_ratio(reference: Case) -> float | None:
        return median_ratio(run, cases.WARM, reference, requests_per_second)

    return [
        Target(
            name="requests/s / those of the tutorial",
            value=throughput_ratio(cases.TUTORIAL_BRIEF),
            minimum=22,
            stretch=30,
            unit="x",
        ),
        Target(
            name="requests/s / those with new clients for every request",
            value=throughput_ratio(cases.PER_REQUEST_BRIEF),
            minimum=400,
            unit="x",
        ),
        Target(
            name="requests/s / those of FastAPI hello",
            value=throughput_ratio(cases.FASTAPI_CEILING),
            minimum=0.65,
            unit="x",
        ),
        Target(
            name="requests/s / those of Fastify, tuned",
            value=throughput_ratio(cases.FASTIFY_WARM),
            minimum=1.6,
            stretch=2,
            unit="x",
        ),
        Target(
            name="requests/s / those of Fastify, shared",
            value=throughput_ratio(cases.FASTIFY_SHARED_WARM),
            unit="x",
        ),
        Target(
            name="p50 of a cold brief for one client / p50 of its slowest backend call (upstream 20 ms)",
            value=median_ratio(run, cases.SINGLE_CLIENT_COLD, cases.SINGLE_CLIENT_UPSTREAM, p50_ms),
            maximum=1.1,
            unit="x",
        ),
        Target(name="p99 / p50", value=median_ratio(run, cases.WARM, cases.WARM, p99_ms, p50_ms), maximum=3, unit="x"),
        Target(
            name="p50 while the upstream is down / p50 of a warm brief",
            value=median_ratio(run, cases.UPSTREAM_DOWN, cases.WARM, p50_ms),
            maximum=1.5,
            unit="x",
        ),
        Target(
            name="time from the start to the first response",
            value=median(first_response_s) if first_response_s else None,
            maximum=0.8,
            unit=" s",
        ),
        Target(
            name="memory at rest, model loaded (RSS)",
            value=run.memory_mib.get(GATEWAY.name),
            maximum=150,
            unit=" MiB",
        ),
    ]
