"""What a run says, as Markdown."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median

from benchmarks import cases, plots
from benchmarks.cases import Case
from benchmarks.contender_registry import CONTENDERS, FASTIFY, GATEWAY
from benchmarks.load import Tally
from benchmarks.runner import Run
from benchmarks.targets import aims, p50, p99, per_second, ratio, typical

COMMAND = "make bench"

BUSY = 0.8
"""Cores: a server with one thread that uses more of one is what the figure measures."""

_WITH_POINT = 100
"""Figures below it have three digits."""

NOT_LITTLE = 0.2
"""Cores that are busy with something else, from which on a run is not to be trusted."""

HEAD = """\
# How fast it is

Written by `{command}` on {began:%Y-%m-%d}, on {machine}: {rounds} rounds of {seconds:g} s for each figure,
three times in each round for what is compared most, in turns, all in one run, with the same PostgreSQL, Redis, RabbitMQ
and upstream, the same data, and the same load. A figure is the median of all; a ratio is that of the medians of a
round, and the median of these is told. **The ratios are what to read**: the figures themselves are this machine's, on
which the load and all servers share the cores with what is measured. {others}

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
        others=_others_at_work(run),
    )
    parts = [
        head,
        "## Aims\n\n"
        + _aims(run)
        + "\nWhat stands between them and what is not met: [performance.md](performance.md).\n",
        "## Who takes part\n\n" + _contenders(run),
        f"## At {cases.CONNECTIONS} connections\n\n" + CPU + "\n" + _at_32(run),
        "## More connections and fewer\n\n" + _at_others(run),
        "## More of everything\n\n" + _scale(run),
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


def _others(tally: Tally) -> float:
    """Cores that were busy with what is no part of the run."""
    return max(0.0, tally.cores.get("machine", 0) - sum(tally.cores.get(name, 0) for name in _SERVERS))


def _others_at_work(run: Run) -> str:
    """How much else the machine did meanwhile: it is in all figures, and not the same in each."""
    seen = [_others(tally) for tallies in run.tallies.values() for tally in tallies]
    if not seen:
        return ""
    told = f"What is no part of the run kept {median(seen):.2f} cores busy meanwhile (median; {max(seen):.2f} at most)."
    return told + (" That is not little: look at the ratios with care." if median(seen) > NOT_LITTLE else "")


def _machine(run: Run) -> str:
    names = {"cores": f"{run.machine['cores']} cores"}
    return ", ".join(names.get(name, f"{name} {version}") for name, version in run.machine.items())


def _aims(run: Run) -> str:
    rows = [
        (aim.what, aim.bound, _number(aim.value) + aim.unit if aim.value is not None else "", aim.verdict)
        for aim in aims(run)
    ]
    return _table(["the gateway, a warm brief if nothing else is said", "aim", "measured", ""], rows, left=2)


def _contenders(run: Run) -> str:
    rows = [
        (
            contender.name,
            contender.what,
            _number(run.memory_mib.get(contender.name)) or f"not run: {run.not_run.get(contender.name, 'left out')}",
        )
        for contender in CONTENDERS
    ]
    return _table(["name", "what it is", "MiB at rest"], rows, left=2)


def _at_32(run: Run) -> str:
    head = ["what", *_FIGURES, "gateway, 32 / this"]
    rows = [
        (*row, _number(ratio(run, cases.WARM, case, per_second)))
        for case in cases.AT_32
        for row in _figures(run, [case])
    ]
    return _table(head, rows)


def _at_others(run: Run) -> str:
    ordered = [cases.warm(contender, number) for number in cases.FEW_TO_MANY for contender in (GATEWAY, FASTIFY)]
    return _table(["who, connections", *_FIGURES], _figures(run, ordered))


def _scale(run: Run) -> str:
    several = [cases.several(places) for places in cases.PLACES_IN_A_CALL]
    these = [cases.WARM, cases.TWO_WORKERS, *several, *cases.OUTBOX, *cases.ALONE]
    return _table(["what", *_FIGURES], _figures(run, these))


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


_FIGURES = ("requests/s", "p50 ms", "p99 ms", "CPU µs", "PostgreSQL µs")
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


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """The first columns are text; the others are figures, and so to the right."""
    lines = [head, ["---" if at < left else "---:" for at in range(len(head))], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
