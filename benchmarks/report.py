"""The report of a run: the Markdown page, its plots and the stored results, and a summary for the terminal."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

from benchmarks import cases, plots
from benchmarks.cases import Case
from benchmarks.contender_registry import CONTENDERS, FASTIFY, GATEWAY
from benchmarks.load import LoadResult
from benchmarks.results import (
    BenchmarkRun,
    cores,
    cpu_us,
    median_of,
    median_ratio,
    p50_ms,
    p99_ms,
    requests_per_second,
)
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
_THREE_DIGITS_BELOW = 100

INTRODUCTION = """\
# Benchmarks

The results of a run of `{command}` on {started_at:%Y-%m-%d}, on {machine}.
[performance.md](performance.md) summarises and explains them.

- **One run.** All contenders use the same PostgreSQL, Redis, RabbitMQ and upstream, with the same data and the same load. They
  are measured in turns: {rounds} rounds with measurements of {seconds:g} s. A round measures the cases that most targets compare
  three times, and all others once.
- **Figures.** A figure is the median of all measurements. A ratio is computed within a round, from the medians of that round; the
  page shows the median of the rounds.
- **Read the ratios.** The absolute figures belong to this machine, whose cores the load generator and all servers share with
  the contender.{other_processes}
- **Load.** The load generator is a separate process: a closed loop on open connections ({connections} by default), over {places}
  places with {observations} observations each.
- **Checks.** It checks every response: status, length, place, observations, views, and that no section is missing. One wrong
  response ends the run.
"""

CPU_NOTE = """\
CPU is user and system time per response in microseconds: of the contender's processes and of all PostgreSQL processes.
"""


def write(run: BenchmarkRun, page: Path) -> None:
    """Write the page, and next to it the results as JSON and a folder with the plots."""
    titles = plots.draw(run, page.with_suffix(""))
    page.write_text(markdown(run, titles, page.stem))
    page.with_suffix(".json").write_text(run.model_dump_json(indent=1) + "\n")


def markdown(run: BenchmarkRun, plot_titles: Iterable[tuple[str, str]], folder: str) -> str:
    """Return the page.

    Args:
        run: the results.
        plot_titles: file name and title of each plot.
        folder: the folder of the plots, relative to the page.
    """
    parts = [
        _introduction(run),
        "## Targets\n\nThe value is that of a warm brief at 32 connections, unless the row names another case.\n\n"
        + _targets_table(run),
        "## Contenders\n\nMemory is the resident set size (RSS) after the start and one response.\n\n"
        + _contenders_table(run),
        f"## {cases.DEFAULT_CONNECTIONS} connections\n\n{CPU_NOTE}\n" + _default_connections_table(run),
        "## Other numbers of connections\n\n" + _connections_table(run),
        "## More processes, places per request, a filled outbox, a single client\n\n" + _scaling_table(run),
        "## The limiting process\n\n" + _cores_table(run),
        *(f"## {title}\n\n![{title}]({folder}/{name})\n" for name, title in plot_titles),
    ]
    return "\n".join(parts)


def summary(run: BenchmarkRun) -> str:
    """Return the figures of all measured cases and the targets, as text for the terminal."""
    figures = [
        f"{name:34} {rate:>8}/s  p50 {p50:>6} ms  p99 {p99:>6} ms  CPU {cpu:>6} µs  PostgreSQL {postgresql:>5} µs"
        for name, rate, p50, p99, cpu, postgresql in _rows(run, [c for c in cases.ALL_CASES if c.name in run.results])
    ]
    targets = [
        f"{target.verdict.strip('*'):8} {target.name}: {_number(target.value)} ({target.bound})"
        for target in all_targets(run)
    ]
    return "\n".join([*figures, "", *targets])


def _introduction(run: BenchmarkRun) -> str:
    versions = {"cores": f"{run.machine['cores']} cores"}
    return INTRODUCTION.format(
        command=COMMAND,
        started_at=run.started_at,
        machine=", ".join(versions.get(name, f"{name} {version}") for name, version in run.machine.items()),
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


def _targets_table(run: BenchmarkRun) -> str:
    rows = [
        (
            target.name,
            target.bound,
            _number(target.value) + target.unit if target.value is not None else "",
            target.verdict,
        )
        for target in all_targets(run)
    ]
    return _table(["value", "target", "measured", ""], rows, text_columns=2)


def _contenders_table(run: BenchmarkRun) -> str:
    rows = [
        (
            contender.name,
            contender.description,
            _number(run.memory_mib.get(contender.name))
            or f"not run: {run.not_run.get(contender.name, 'not selected')}",
        )
        for contender in CONTENDERS
    ]
    return _table(["contender", "description", "memory MiB"], rows, text_columns=2)


def _default_connections_table(run: BenchmarkRun) -> str:
    rows = [
        (*row, _number(median_ratio(run, cases.WARM, case, requests_per_second)))
        for case in cases.AT_32_CONNECTIONS
        for row in _rows(run, [case])
    ]
    return _table(["case", *_METRICS, "requests/s of `gateway, 32` / this case"], rows)


def _connections_table(run: BenchmarkRun) -> str:
    ordered = [
        cases.warm_brief(contender, connections)
        for connections in cases.CONNECTION_COUNTS
        for contender in (GATEWAY, FASTIFY)
    ]
    return _table(["contender, connections", *_METRICS], _rows(run, ordered))


def _scaling_table(run: BenchmarkRun) -> str:
    per_call = [cases.briefs_per_call(places) for places in cases.PLACES_PER_CALL]
    selected = [cases.WARM, cases.TWO_GATEWAYS, *per_call, *cases.OUTBOX, *cases.SINGLE_CLIENT]
    return _table(["case", *_METRICS], _rows(run, selected))


def _cores_table(run: BenchmarkRun) -> str:
    rows = []
    for case in cases.ALL_CASES:
        used = [median_of(run, case, cores(process)) for process in _PROCESSES]
        if used[0] is not None:
            rows.append((case.name, *(_cores_cell(value or 0) for value in used)))
    return (
        f"Cores used by each process; more than {SATURATED_CORES:g} is bold. Where the load generator or the upstream, a "
        "stand-in in Python, is bold, it limits the figure rather than the contender.\n\n"
        + _table(["case", *(f"cores: {process}" for process in _PROCESSES)], rows)
    )


def _cores_cell(value: float) -> str:
    return f"**{value:.2f}**" if value > SATURATED_CORES else f"{value:.2f}"


def _rows(run: BenchmarkRun, selected: Iterable[Case]) -> list[tuple[str, ...]]:
    return [
        (case.name, *(_number(median_of(run, case, metric)) or "not run" for metric in _METRICS.values()))
        for case in selected
    ]


def _number(value: float | None) -> str:
    """Return the value with three significant digits. None: an empty string."""
    if value is None:
        return ""
    return f"{value:.3g}" if abs(value) < _THREE_DIGITS_BELOW else f"{value:,.0f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1) -> str:
    """Return a Markdown table. The columns after the first `text_columns` are right-aligned."""
    alignment = ["---" if column < text_columns else "---:" for column in range(len(head))]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [head, alignment, *rows])
