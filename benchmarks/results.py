"""The results of a run, and the medians and ratios that the report is made of."""

from collections.abc import Callable
from datetime import datetime
from statistics import median

from pydantic import BaseModel

from benchmarks.cases import Case
from benchmarks.load import LoadResult

Metric = Callable[[LoadResult], float]


class BenchmarkRun(BaseModel):
    """All results of a run, as stored in docs/benchmarks/.

    Attributes:
        started_at: in UTC.
        machine: the number of cores, the system, and the versions of Python, Node.js and PostgreSQL.
        rounds: how many rounds were measured.
        seconds: the duration of a measurement.
        places: the number of places that warm briefs are about.
        not_run: contenders that could not be started, and why.
        imports_s: seconds to import the libraries alone, before each start.
        first_response_s: seconds from the start of `gateway serve` to its first brief, of each start.
        memory_mib: RSS after the start and one response, by contender.
        results: the measurements in their order, by case.
    """

    started_at: datetime
    machine: dict[str, str]
    rounds: int
    seconds: float
    places: int
    not_run: dict[str, str]
    imports_s: list[float]
    first_response_s: list[float]
    memory_mib: dict[str, float]
    results: dict[str, list[LoadResult]]

    @property
    def python(self) -> str:
        """The version of Python, without the patch release."""
        return ".".join(self.machine["Python"].split(".")[:2])


def requests_per_second(result: LoadResult) -> float:
    return result.requests_per_second


def p50_ms(result: LoadResult) -> float:
    return result.p50_ms


def p99_ms(result: LoadResult) -> float:
    return result.p99_ms


def refused_per_second(result: LoadResult) -> float:
    return result.refused_per_second


def late_per_second(result: LoadResult) -> float:
    return result.late_per_second


def recovery_s(result: LoadResult) -> float:
    return result.recovery_s or 0


def peak_memory_mib(result: LoadResult) -> float:
    return result.peak_memory_mib


def cpu_us(process: str) -> Metric:
    """Return the metric of the CPU time of a process per response, in microseconds."""
    return lambda result: result.cpu_us.get(process, 0)


def cores(process: str) -> Metric:
    """Return the metric of the cores that a process used."""
    return lambda result: result.cores.get(process, 0)


def median_of(run: BenchmarkRun, case: Case, metric: Metric) -> float | None:
    """Return the median of all measurements of a case. None: it was not measured."""
    results = run.results.get(case.name)
    return median(map(metric, results)) if results else None


def median_ratio(
    run: BenchmarkRun, case: Case, reference: Case, metric: Metric, reference_metric: Metric | None = None
) -> float | None:
    """Return the median of the ratios of two cases in the same round. None: one of them was not measured.

    Both cases of a round meet the same state of the machine, so that a slow round does not change the ratio.
    """
    pairs = zip(_per_round(run, case, metric), _per_round(run, reference, reference_metric or metric), strict=False)
    ratios = [value / reference_value for value, reference_value in pairs]
    return median(ratios) if ratios else None


def _per_round(run: BenchmarkRun, case: Case, metric: Metric) -> list[float]:
    """Return the median of each round, because a round may measure a case several times."""
    results = run.results.get(case.name, [])
    per_round = max(1, len(results) // run.rounds)
    return [median(map(metric, results[start : start + per_round])) for start in range(0, len(results), per_round)]
