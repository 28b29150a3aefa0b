"""What a run says, as Markdown."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks import cases, plots
from benchmarks.aims import aims, p50, p99, per_second, ratio, typical
from benchmarks.campaign import Run
from benchmarks.cases import Case
from benchmarks.line_up import CONTENDERS, FASTIFY, GATEWAY
from benchmarks.load import Tally

COMMAND = "make bench"

BUSY = 0.8
"""Cores: a server with one thread that uses more of one is what the figure measures."""

_WITH_POINT = 100
"""Figures below it have three digits."""

HEAD = """\
# How fast it is

Written by `{command}` on {began:%Y-%m-%d}, on {machine}: {rounds} rounds of {seconds:g} s for each figure, in turns, all in
one run, with the same PostgreSQL, Redis, RabbitMQ and upstream, the same data, and the same load. A figure is the median
of the rounds; a ratio is taken within a round, and the median of these is told. **The ratios are what to read**: the
figures themselves are this machine's, on which the load and all servers share the cores with what is measured.

The load is a process of its own, a closed loop on connections that stay open ({connections}, where nothing else is said), over
{places} places with five observations each. Every answer is checked: status, length, whose place it is, its observations,
its views, and that nothing is missing. A single wrong one ends the run.
"""

CPU = """\
CPU is user and system time in microseconds for each answer: of the application's processes, and of all of PostgreSQL's.
Memory is the resident set size (RSS) after the start and one answer.
"""


def markdown(run: Run, drawn: Iterable[tuple[str, str]], folder: str) -> str:
    """The whole page; the plots are in `folder`, beside it."""
    head = HEAD.format(
        command=COMMAND,
        began=run.began,
        machine=_machine(run),
        rounds=run.rounds,
        seconds=run.seconds,
        connections=cases.CONNECTIONS,
        places=run.places,
    )
    parts = [
        head,
        "## Aims\n\n" + _aims(run),
        "## Who takes part\n\n" + _contenders(run),
        f"## At {cases.CONNECTIONS} connections\n\n" + CPU + "\n" + _at_32(run),
        "## More connections and fewer\n\n" + _at_others(run),
        "## What bounds what\n\n" + _bounds(run),
        *(f"## {title}\n\n![{title}]({folder}/{name})\n" for name, title in drawn),
    ]
    return "\n".join(parts)


def summary(run: Run) -> str:
    """For the terminal."""
    lines = [
        f"{name:34} {values}" for name, values in _rows(run, [case for case in cases.EVERY if case.name in run.tallies])
    ]
    return "\n".join(
        [
            *lines,
            "",
            *(f"{aim.verdict.strip('*'):8} {aim.what}: {_number(aim.value)} ({aim.bound})" for aim in aims(run)),
        ]
    )


def write(run: Run, page: Path) -> None:
    """Write the page, its figures and its plots."""
    drawn = plots.draw(run, page.with_suffix(""))
    page.write_text(markdown(run, drawn, page.stem))
    page.with_suffix(".json").write_text(run.model_dump_json(indent=1) + "\n")


def _machine(run: Run) -> str:
    names = {"cores": f"{run.machine['cores']} cores"}
    return ", ".join(names.get(name, f"{name} {version}") for name, version in run.machine.items())


def _aims(run: Run) -> str:
    rows = [
        (aim.what, _number(aim.value) + aim.unit if aim.value is not None else "", aim.bound, aim.verdict)
        for aim in aims(run)
    ]
    return _table(["the gateway's warm brief", "measured", "aim", ""], rows)


def _contenders(run: Run) -> str:
    rows = [
        (
            contender.name,
            contender.what,
            _number(run.memory_mib.get(contender.name)) or f"not run: {run.not_run.get(contender.name, 'left out')}",
        )
        for contender in CONTENDERS
    ]
    return _table(["name", "what it is", "MiB at rest"], rows)


def _at_32(run: Run) -> str:
    head = ["what", "requests/s", "p50 ms", "p99 ms", "CPU µs", "PostgreSQL µs", "gateway / it"]
    rows = [
        (*row, _number(ratio(run, cases.WARM, case, per_second)))
        for case in cases.AT_32
        for row in _figures(run, [case])
    ]
    return _table(head, rows)


def _at_others(run: Run) -> str:
    ordered = [cases.warm(contender, number) for number in cases.FEW_TO_MANY for contender in (GATEWAY, FASTIFY)]
    head = ["who, connections", "requests/s", "p50 ms", "p99 ms", "CPU µs", "PostgreSQL µs"]
    others = [cases.TWO_WORKERS, *cases.SCALE[1:], cases.TWENTY, *cases.ALONE, *cases.OUTBOX]
    return _table(head, _figures(run, [*ordered, *others]))


def _bounds(run: Run) -> str:
    """Who had no time left, so that nobody takes a figure for what it is not."""
    head = ["what", *(f"cores: {name}" for name in _SERVERS)]
    rows = []
    for case in cases.EVERY:
        cores = [typical(run, case, _cores(name)) for name in _SERVERS]
        if cores[0] is not None:
            rows.append(
                (case.name, *(f"**{used:.2f}**" if (used or 0) > BUSY else f"{used or 0:.2f}" for used in cores))
            )
    return (
        f"Cores that each used; more than {BUSY:g} is in bold. Where that is the upstream, which is a stand-in in Python, or "
        "the load, the figure is rather theirs than that of who was asked.\n\n" + _table(head, rows)
    )


_SERVERS = ("application", "load", "upstream", "postgresql", "redis", "rabbitmq")


def _cores(name: str) -> Callable[[Tally], float]:
    return lambda tally: tally.cores.get(name, 0)


def _cpu(name: str) -> Callable[[Tally], float]:
    return lambda tally: tally.cpu_us.get(name, 0)


def _figures(run: Run, which: Iterable[Case]) -> list[tuple[str, ...]]:
    figures = (per_second, p50, p99, _cpu("application"), _cpu("postgresql"))
    return [(case.name, *(_number(typical(run, case, figure)) or "not run" for figure in figures)) for case in which]


def _rows(run: Run, which: Iterable[Case]) -> list[tuple[str, str]]:
    return [
        (name, f"{rate:>8}/s  p50 {middle:>6} ms  p99 {late:>6} ms  CPU {cpu:>6} µs  PostgreSQL {database:>5} µs")
        for name, rate, middle, late, cpu, database in _figures(run, which)
    ]


def _number(value: float | None) -> str:
    """Three digits that count; nothing for nothing."""
    if value is None:
        return ""
    return f"{value:.3g}" if abs(value) < _WITH_POINT else f"{value:,.0f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
