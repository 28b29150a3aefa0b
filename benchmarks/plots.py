"""The plots of a run, as SVG."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import cases
from benchmarks.cases import Case
from benchmarks.contender_registry import FASTIFY, GATEWAY
from benchmarks.runner import Run
from benchmarks.targets import p50, p99, per_second, typical

_STYLE: dict[Any, Any] = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "gateway",  # the same figures make the same file
}
_OURS, _OTHERS = "#1f6f5c", "#9aa5ab"


def draw(run: Run, folder: Path) -> list[tuple[str, str]]:
    """Draw what was measured; return the name and the title of each plot."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    with mpl.rc_context(_STYLE):
        for name, (title, plot) in _PLOTS.items():
            figure = Figure(figsize=(7, 3.2), layout="constrained")
            if plot(run, figure):
                figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
                drawn.append((f"{name}.svg", title))
    return drawn


def _throughput(run: Run, figure: Figure) -> bool:
    bars = [(case.name, value) for case in cases.AT_32 if (value := typical(run, case, per_second)) is not None]
    axes = figure.subplots()
    axes.barh(
        [name for name, _ in bars],
        [value for _, value in bars],
        color=[_OURS if name.startswith("gateway") else _OTHERS for name, _ in bars],
    )
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("requests a second")
    for at, (_, value) in enumerate(bars):
        axes.annotate(f"{value:,.0f}", (value, at), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8)
    return bool(bars)


def _connections(run: Run, figure: Figure) -> bool:
    left, right = figure.subplots(1, 2)
    drawn = [
        _line(left, run, _warm(contender.name), per_second, label=contender.name, color=color)
        and _line(right, run, _warm(contender.name), p50, label=f"{contender.name}, p50", color=color)
        and _line(right, run, _warm(contender.name), p99, label=f"{contender.name}, p99", color=color, dashed=True)
        for contender, color in ((GATEWAY, _OURS), (FASTIFY, _OTHERS))
    ]
    return _finish(left, right, "connections", any(drawn), logarithmic=True)


def _places(run: Run, figure: Figure) -> bool:
    left, right = figure.subplots(1, 2)
    points = [(places, cases.several(places)) for places in cases.PLACES_IN_A_CALL]
    briefs = [(places, value * places) for places, case in points if (value := typical(run, case, per_second))]
    left.plot(
        [places for places, _ in briefs],
        [value for _, value in briefs],
        marker="o",
        color=_OURS,
        label="briefs a second",
    )
    _line(right, run, points, p50, label="p50", color=_OURS)
    _line(right, run, points, p99, label="p99", color=_OURS, dashed=True)
    drawn = _finish(left, right, "places in a call", bool(briefs))
    left.set_ylabel("briefs a second")
    return drawn


def _outbox(run: Run, figure: Figure) -> bool:
    left, right = figure.subplots(1, 2)
    points = [(depth, cases.waiting(depth)) for depth in cases.OUTBOX_DEPTHS]
    drawn = _line(left, run, points, per_second, label="observations written", color=_OURS)
    _line(right, run, points, p50, label="p50", color=_OURS)
    _line(right, run, points, p99, label="p99", color=_OURS, dashed=True)
    for axes in (left, right):
        axes.set_xscale("symlog", linthresh=1000)
        axes.set_xticks(list(cases.OUTBOX_DEPTHS), [f"{depth:,}" for depth in cases.OUTBOX_DEPTHS])
    return _finish(left, right, "events that wait in the outbox", drawn)


def _workers(run: Run, figure: Figure) -> bool:
    points = [
        (workers, case) for workers, case in ((1, cases.WARM), (2, cases.TWO_WORKERS)) if run.tallies.get(case.name)
    ]
    left, right = figure.subplots(1, 2)
    left.bar(
        [str(workers) for workers, _ in points],
        [typical(run, case, per_second) or 0 for _, case in points],
        color=_OURS,
    )
    right.bar(
        [str(workers) for workers, _ in points],
        [(typical(run, case, lambda tally: tally.cores["application"]) or 0) for _, case in points],
        color=_OURS,
        label="the gateway",
    )
    left.set(xlabel="processes of the gateway", ylabel="requests a second")
    right.set(xlabel="processes of the gateway", ylabel="cores that they use")
    return bool(points)


_PLOTS: dict[str, tuple[str, Callable[[Run, Figure], bool]]] = {
    "throughput": ("Requests a second, 32 connections", _throughput),
    "connections": ("More connections", _connections),
    "workers": ("One process and two", _workers),
    "places": ("More places in a call, 32 connections", _places),
    "outbox": ("Writing while events wait, 32 connections", _outbox),
}


def _warm(name: str) -> list[tuple[float, Case]]:
    contender = next(contender for contender in (GATEWAY, FASTIFY) if contender.name == name)
    return [(number, cases.warm(contender, number)) for number in cases.FEW_TO_MANY]


def _line(
    axes: Axes,
    run: Run,
    points: Sequence[tuple[float, Case]],
    figure: Callable[..., float],
    *,
    label: str,
    color: str,
    dashed: bool = False,
) -> bool:
    there = [(x, y) for x, case in points if (y := typical(run, case, figure)) is not None]
    axes.plot(
        [x for x, _ in there],
        [y for _, y in there],
        marker="o",
        label=label,
        color=color,
        linestyle="--" if dashed else "-",
    )
    return bool(there)


def _finish(left: Axes, right: Axes, across: str, drawn: bool, *, logarithmic: bool = False) -> bool:
    left.set(xlabel=across, ylabel="requests a second")
    right.set(xlabel=across, ylabel="milliseconds")
    for axes in (left, right):
        if logarithmic:
            axes.set_xscale("log", base=2)
            axes.set_xticks(list(cases.FEW_TO_MANY), [str(number) for number in cases.FEW_TO_MANY])
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
    return drawn
