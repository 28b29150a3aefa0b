"""The page of one run, with all of its cases, and a summary for the terminal."""

from collections.abc import Iterable, Mapping
from statistics import median

from benchmarks import cases
from benchmarks.cases import Case
from benchmarks.contender_registry import CONTENDERS, FASTIFY, GATEWAY
from benchmarks.load import LoadResult
from benchmarks.markdown import format_number, format_table
from benchmarks.overload import RECOVERED_LATENCY, RECOVERED_RESPONSES
from benchmarks.results import (
    BenchmarkRun,
    Metric,
    cores,
    cpu_us,
    late_per_second,
    median_of,
    median_ratio,
    p50_ms,
    p99_ms,
    peak_memory_mib,
    recovery_s,
    refused_per_second,
    requests_per_second,
)
from benchmarks.serving import LIBRARIES
from benchmarks.targets import all_targets
from benchmarks.workloads import OBSERVATIONS_PER_PLACE

COMMAND = "make bench"

SATURATED_CORES = 0.8  # a single-threaded server above it limits the figure
NOISY_CORES = 0.2  # used by other processes; above it the page has a warning

_PROCESSES = ("application", "load", "upstream", "postgresql", "redis", "rabbitmq")
_METRICS = {
    "requests/s": requests_per_second,
    "p50 ms": p50_ms,
    "p99 ms": p99_ms,
    "CPU µs": cpu_us("application"),
    "PostgreSQL µs": cpu_us("postgresql"),
}
_OVERLOAD_METRICS = {
    "in time/s": requests_per_second,
    "late/s": late_per_second,
    "refused/s": refused_per_second,
    "p50 ms": p50_ms,
    "p99 ms": p99_ms,
    "CPU µs": cpu_us("application"),
    "memory MiB": peak_memory_mib,
    "recovery s": recovery_s,
}

INTRODUCTION = """\
# Benchmarks on Python {python}

The run of `{command}` on {description}. [The overview](../benchmarks.md) has the targets.

- **One run.** All contenders use the same PostgreSQL, Redis, RabbitMQ and upstream, with the same data and the same load. They
  are measured in turns: {rounds} rounds with measurements of {seconds:g} s. A round measures the cases with the closest targets
  three times, and all others once.
- **Figures.** A figure is the median of all measurements. A ratio is computed within a round, from the medians of that round; the
  page shows the median of the rounds.
- **Read the ratios.** The absolute figures belong to this machine, whose cores the load generator and all servers share with
  the contender.{other_processes}
- **Load.** The load generator is a separate process: a closed loop on open connections ({connections} by default), over {places}
  places with {observations} observations each.
- **Checks.** It checks every response: status, length, place, observations, views, and that no section is missing. One wrong
  response ends the run.
- **CPU** is user and system time per response in microseconds: of the contender's processes and of all PostgreSQL processes.
"""

WRITES_NOTE = """\
Each observation has an idempotency key of its own, and is stored with an event in one transaction; a relay publishes the event with
a confirm. While a contender writes, no other contender runs.
"""
OVERLOAD_NOTE = """\
{connections:,} connections to the gateway with its default deadline. A client that is refused sends the next request at once, and
connects again if its connection was closed. *In time* are the complete briefs within {seconds:g} s, as the client sees them;
*refused* are responses with status 503 and closed connections; *late* are all others. The latencies are those of accepted requests.
Memory is the highest RSS. The recovery ends when the briefs of one new client after another are in time again, {responses} in a row
within {latency:g} ms.
"""


def stem(run: BenchmarkRun) -> str:
    """Return the name of the files of a run, without the extension."""
    return f"python-{run.python}"


def describe(run: BenchmarkRun) -> str:
    """Return when and where the run was made, and with which versions."""
    labels = {"cores": f"{run.machine['cores']} cores", "system": run.machine.get("system", "")}
    return f"{run.started_at:%Y-%m-%d}, " + ", ".join(
        labels.get(name, f"{name} {version}") for name, version in run.machine.items()
    )


def markdown(run: BenchmarkRun, plot_titles: Iterable[tuple[str, str]]) -> str:
    """Return the page.

    Args:
        run: the results.
        plot_titles: file name and title of each plot, in the folder of the page.
    """
    parts = [
        _introduction(run),
        "## Contenders\n\nMemory is the resident set size (RSS) after the start and one response.\n\n"
        + _contenders_table(run),
        "## Ceilings\n\n" + _cases_table(run, cases.CEILINGS, cases.WARM),
        "## Warm briefs\n\n" + _cases_table(run, cases.WARM_BRIEFS, cases.WARM),
        "## Numbers of connections\n\n" + _connections_table(run),
        "## Cold briefs\n\n" + _cases_table(run, cases.COLD_BRIEFS, cases.COLD),
        "## Cold briefs of a single client\n\nThe upstream takes 20 ms longer.\n\n"
        + format_table(["case", *_METRICS], _rows(run, cases.SINGLE_CLIENT)),
        f"## Writes\n\n{WRITES_NOTE}\n" + _cases_table(run, cases.WRITES, cases.WRITE),
        "## Overload\n\n" + _overload_section(run),
        "## Start\n\n" + _start_section(run),
        "## The limiting process\n\n" + _cores_section(run),
        *(f"## {title}\n\n![{title}]({name})\n" for name, title in plot_titles),
    ]
    return "\n".join(parts)


def summary(run: BenchmarkRun) -> str:
    """Return the figures of all measured cases and the targets, as text for the terminal."""
    figures = [
        f"{name:34} {rate:>8}/s  p50 {p50:>6} ms  p99 {p99:>6} ms  CPU {cpu:>6} µs  PostgreSQL {postgresql:>5} µs"
        for name, rate, p50, p99, cpu, postgresql in _rows(run, [c for c in cases.ALL_CASES if c.name in run.results])
    ]
    targets = [
        f"{target.verdict:8} {target.name}: {format_number(target.value)}{target.unit} ({target.bound})"
        for target in all_targets(run)
        if target.value is not None
    ]
    return "\n".join([f"Python {run.machine['Python']}", *figures, "", *targets])


def _introduction(run: BenchmarkRun) -> str:
    return INTRODUCTION.format(
        python=run.python,
        command=COMMAND,
        description=describe(run),
        rounds=run.rounds,
        seconds=run.seconds,
        connections=cases.DEFAULT_CONNECTIONS,
        places=run.places,
        observations=OBSERVATIONS_PER_PLACE,
        other_processes=_other_processes(run),
    )


def _other_processes(run: BenchmarkRun) -> str:
    used = [_other_cores(result) for results in run.results.values() for result in results]
    if not used:
        return ""
    note = f" Other processes used {median(used):.2f} cores during the run (median; maximum {max(used):.2f})."
    warning = " That is much: even the ratios may be wrong."
    return note + (warning if median(used) > NOISY_CORES else "")


def _other_cores(result: LoadResult) -> float:
    return max(0.0, result.cores.get("machine", 0) - sum(result.cores.get(name, 0) for name in _PROCESSES))


def _contenders_table(run: BenchmarkRun) -> str:
    rows = [
        (
            contender.name,
            contender.description,
            format_number(run.memory_mib.get(contender.name))
            or f"not run: {run.not_run.get(contender.name, 'not selected')}",
        )
        for contender in CONTENDERS
    ]
    return format_table(["contender", "description", "memory MiB"], rows, text_columns=2)


def _cases_table(run: BenchmarkRun, selected: Iterable[Case], reference: Case) -> str:
    rows = [
        (*row, format_number(median_ratio(run, reference, case, requests_per_second)))
        for case in selected
        for row in _rows(run, [case])
    ]
    return format_table(["case", *_METRICS, f"requests/s of `{reference.name}` / this case"], rows)


def _connections_table(run: BenchmarkRun) -> str:
    ordered = [
        cases.warm_brief(contender, connections)
        for contender in (GATEWAY, FASTIFY)
        for connections in cases.CONNECTION_COUNTS
    ]
    return format_table(["contender, connections", *_METRICS], _rows(run, ordered))


def _overload_section(run: BenchmarkRun) -> str:
    note = OVERLOAD_NOTE.format(
        connections=cases.OVERLOAD_CONNECTIONS,
        seconds=cases.RESPONSE_TIMEOUT,
        responses=RECOVERED_RESPONSES,
        latency=RECOVERED_LATENCY * 1000,
    )
    rows = _rows(run, [cases.OVERLOAD], _OVERLOAD_METRICS)
    return f"{note}\n" + format_table(["case", *_OVERLOAD_METRICS], rows)


def _start_section(run: BenchmarkRun) -> str:
    rows = [
        (name, *map(format_number, (min(seconds), median(seconds), max(seconds))))
        for name, seconds in (
            (f"`import {', '.join(LIBRARIES)}`", run.imports_s),
            ("`gateway serve` to the first brief", run.first_response_s),
        )
        if seconds
    ]
    return format_table(["from the start of the process", "fastest s", "median s", "slowest s"], rows)


def _cores_section(run: BenchmarkRun) -> str:
    rows = []
    for case in cases.ALL_CASES:
        used = [median_of(run, case, cores(process)) for process in _PROCESSES]
        if used[0] is not None:
            rows.append((case.name, *(_cores_cell(value or 0) for value in used)))
    return (
        f"Cores used by each process; more than {SATURATED_CORES:g} is bold. Where the load generator or the upstream, a "
        "stand-in in Python, is bold, it limits the figure rather than the contender.\n\n"
        + format_table(["case", *(f"cores: {process}" for process in _PROCESSES)], rows)
    )


def _cores_cell(value: float) -> str:
    return f"**{value:.2f}**" if value > SATURATED_CORES else f"{value:.2f}"


def _rows(
    run: BenchmarkRun, selected: Iterable[Case], metrics: Mapping[str, Metric] = _METRICS
) -> list[tuple[str, ...]]:
    return [
        (case.name, *(format_number(median_of(run, case, metric)) or "not run" for metric in metrics.values()))
        for case in selected
    ]
