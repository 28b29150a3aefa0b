"""The plots of a run as SVG."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import cases
from benchmarks.cases import Case
from benchmarks.contender_registry import FASTIFY, GATEWAY, Contender
from benchmarks.results import BenchmarkRun, Metric, median_of, p50_ms, p99_ms, requests_per_second

X = TypeVar("X")

_STYLE: dict[Any, Any] = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "gateway",  # the same results give the same file
}
_THROUGHPUT = [
    *(cases.FASTAPI_CEILING, cases.PER_REQUEST_BRIEF, cases.TUTORIAL_BRIEF),
    *(cases.FASTIFY_WARM, cases.FASTIFY_SHARED_WARM, cases.WARM),
    *cases.COLD_BRIEFS[:-1],
    *cases.WRITES,
]
_GATEWAY_COLOR, _OTHER_COLOR = "#1f6f5c", "#9aa5ab"


def draw(run: BenchmarkRun, folder: Path, prefix: str) -> list[tuple[str, str]]:
    """Draw each plot that the run has results for, into files whose names begin with `prefix`.

    Returns:
        The file name and the title of each plot.
    """
    titles = []
    with mpl.rc_context(_STYLE):
        for name, (title, plot) in _PLOTS.items():
            figure = Figure(figsize=(7, 3.2), layout="constrained")
            if plot(run, figure):
                file = folder / f"{prefix}-{name}.svg"
                figure.savefig(file, metadata={"Date": None, "Creator": None})
                titles.append((file.name, title))
    return titles


def _plot_throughput(run: BenchmarkRun, figure: Figure) -> bool:
    bars = _points(run, ((case.name, case) for case in _THROUGHPUT), requests_per_second)
    axes = figure.subplots()
    axes.barh(
        [name for name, _ in bars],
        [value for _, value in bars],
        color=[_GATEWAY_COLOR if name.startswith(GATEWAY.name) else _OTHER_COLOR for name, _ in bars],
    )
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("requests/s")
    for row, (_, value) in enumerate(bars):
        axes.annotate(f"{value:,.0f}", (value, row), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8)
    return bool(bars)


def _plot_connections(run: BenchmarkRun, figure: Figure) -> bool:
    left, right = figure.subplots(1, 2)
    drawn = False
    for contender, color in ((GATEWAY, _GATEWAY_COLOR), (FASTIFY, _OTHER_COLOR)):
        series = _warm_briefs(contender)
        drawn |= _plot_line(left, _points(run, series, requests_per_second), label=contender.name, color=color)
        _plot_line(right, _points(run, series, p50_ms), label=f"{contender.name}, p50", color=color)
        _plot_line(right, _points(run, series, p99_ms), label=f"{contender.name}, p99", color=color, dashed=True)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(cases.CONNECTION_COUNTS), [str(count) for count in cases.CONNECTION_COUNTS])
    _finish(left, right, "connections")
    return drawn


_PLOTS: dict[str, tuple[str, Callable[[BenchmarkRun, Figure], bool]]] = {
    "throughput": ("Plot: requests/s at 32 connections", _plot_throughput),
    "connections": ("Plot: number of connections", _plot_connections),
}


def _warm_briefs(contender: Contender) -> list[tuple[float, Case]]:
    return [(connections, cases.warm_brief(contender, connections)) for connections in cases.CONNECTION_COUNTS]


def _points(run: BenchmarkRun, series: Iterable[tuple[X, Case]], metric: Metric) -> list[tuple[X, float]]:
    """Return x and the median of the metric for each measured case."""
    return [(x, value) for x, case in series if (value := median_of(run, case, metric)) is not None]


def _plot_line(
    axes: Axes, points: Sequence[tuple[float, float]], *, label: str, color: str, dashed: bool = False
) -> bool:
    """Draw a line. Return whether it has points."""
    axes.plot(
        [x for x, _ in points],
        [y for _, y in points],
        marker="o",
        label=label,
        color=color,
        linestyle="--" if dashed else "-",
    )
    return bool(points)


def _finish(left: Axes, right: Axes, xlabel: str) -> None:
    """Label the throughput on the left and the latency on the right."""
    left.set(xlabel=xlabel, ylabel="requests/s")
    right.set(xlabel=xlabel, ylabel="milliseconds")
    for axes in (left, right):
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
