"""Benchmark runs with invented results."""

from datetime import UTC, datetime

from benchmarks.cases import Case
from benchmarks.load import LoadResult
from benchmarks.results import BenchmarkRun


def make_result(rate: float, *, p50_ms: float = 1, p99_ms: float = 2) -> LoadResult:
    """Return the result of one measurement with `rate` requests per second."""
    return LoadResult(
        responses=100,
        requests_per_second=rate,
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        cpu_us={"application": 9},
        cores={"application": 1},
    )


def make_run(*measured: tuple[Case, list[LoadResult]], python: str = "3.11") -> BenchmarkRun:
    """Return a run of three rounds with the results of some cases."""
    return BenchmarkRun(
        started_at=datetime(2026, 1, 2, tzinfo=UTC),
        machine={"cores": "2", "system": "Debian", "Python": f"{python}.1", "Node": "none"},
        rounds=3,
        seconds=1,
        places=300,
        not_run={"Fastify, tuned": "there is no Node.js"},
        imports_s=[0.5, 0.5, 0.5],
        first_response_s=[0.5, 0.9, 0.7],
        memory_mib={"gateway": 151},
        results={case.name: results for case, results in measured},
    )
