"""A timeline as an SVG image: one bar for each thing that is entered and exited, drawn to scale."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from html import escape
from typing import Final, NamedTuple


class SegmentState(StrEnum):
    """The states of a bar, in order. They differ in height as well as in colour."""

    ENTERING = "entering"
    ACTIVE = "active"
    EXITING = "exiting"


class Segment(NamedTuple):
    """A part of a bar. The times are seconds."""

    state: SegmentState
    start: float
    end: float


@dataclass(frozen=True)
class Bar:
    """One row of the timeline.

    Attributes:
        name: the text in front of the row.
        segments: what is drawn, in order.
        outcome: the text behind the row.
        failed: a cross marks the end of the bar, and the outcome is red.
    """

    name: str
    segments: Sequence[Segment]
    outcome: str = ""
    failed: bool = False


_WIDTH: Final = 800
_LEFT, _RIGHT = 84, 590  # the bars are drawn in between
_ROW: Final = 22
_LINE: Final = 14
_MARGIN: Final = 12
_MIN_WIDTH: Final = 1.5  # of a segment, however short it was
_MAX_TICKS: Final = 6
_CROSS: Final = 4
_HEIGHTS: Final = {SegmentState.ENTERING: 6, SegmentState.ACTIVE: 12, SegmentState.EXITING: 6}

_STYLE: Final = """\
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.paper { fill: #ffffff }
.muted { fill: #59636e }
.grid { stroke: #d1d9e0 }
.entering { fill: #9a6700 }
.active { fill: #0969da }
.exiting { fill: #818b98 }
.mark { stroke: #59636e; stroke-dasharray: 3 3 }
.cross { stroke: #cf222e; stroke-width: 2.5 }
text.failed { fill: #cf222e }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc }
  .paper { fill: #0d1117 }
  .muted { fill: #9198a1 }
  .grid { stroke: #3d444d }
  .entering { fill: #d29922 }
  .active { fill: #4493f8 }
  .exiting { fill: #7d8590 }
  .mark { stroke: #9198a1 }
  .cross { stroke: #f85149 }
  text.failed { fill: #f85149 }
}"""


def timeline_svg(bars: Sequence[Bar], *, title: str, marks: Mapping[str, float] | None = None) -> str:
    """Return the timeline as a standalone SVG document, readable on light and on dark pages.

    Its description has the same content in words, for readers that do not see the image.

    Args:
        bars: one for each row, from top to bottom.
        title: of the image.
        marks: moments of the whole timeline, by name, in seconds.
    """
    return "\n".join(_Drawing(bars, dict(marks or {})).lines(title)) + "\n"


class _Drawing:
    def __init__(self, bars: Sequence[Bar], marks: dict[str, float]) -> None:
        self._bars = bars
        self._marks = sorted(marks.items(), key=lambda mark: -mark[1])
        self._end = max([*marks.values(), *(segment.end for bar in bars for segment in bar.segments), 0]) or 1e-3
        self._top = _MARGIN + _LINE * len(self._marks) + 4
        self._bottom = self._top + _ROW * len(bars)

    def lines(self, title: str) -> Iterator[str]:
        height = self._bottom + 2 * _LINE + 2 * _MARGIN
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
            ' role="img" aria-labelledby="title description">'
        )
        yield f'<title id="title">{escape(title)}</title>'
        yield f'<desc id="description">{escape(" ".join(self._description()))}</desc>'
        yield f"<style>\n{_STYLE}\n</style>"
        yield f'<rect class="paper" width="{_WIDTH}" height="{height}" rx="6"/>'
        yield from self._grid()
        for row, bar in enumerate(self._bars):
            yield from self._row(bar, self._top + _ROW * row + _ROW // 2)
        yield from self._legend(height - _MARGIN)
        yield "</svg>"

    def _description(self) -> Iterator[str]:
        for bar in self._bars:
            states = ", ".join(f"{state} from {_ms(start)} to {_ms(end)}" for state, start, end in bar.segments)
            yield f"{bar.name}: {states}{f'; {bar.outcome}' if bar.outcome else ''}."
        for name, at in reversed(self._marks):
            yield f"{name} at {_ms(at)}."

    def _x(self, seconds: float) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * seconds / self._end, 1)

    def _grid(self) -> Iterator[str]:
        step = _tick_step(self._end)
        for number in range(int(self._end / step) + 1):
            x = self._x(number * step)
            yield f'<path class="grid" d="M{x} {self._top}V{self._bottom}"/>'
            yield _text(x, self._bottom + _LINE, _ms(number * step), "muted", anchor="middle")
        for row, (name, at) in enumerate(self._marks):  # the last one on top, so that no line crosses a name
            x, y = self._x(at), _MARGIN + _LINE * (row + 1) - 4
            yield f'<path class="mark" d="M{x} {y + 3}V{self._bottom}"/>'
            yield _text(x - 4, y, name, "muted", anchor="end")

    def _row(self, bar: Bar, y: int) -> Iterator[str]:
        yield _text(_LEFT - 8, y + 4, bar.name, anchor="end")
        for state, start, end in bar.segments:
            x, height = self._x(start), _HEIGHTS[state]
            width = max(round(self._x(end) - x, 1), _MIN_WIDTH)
            yield f'<rect class="{state}" x="{x}" y="{y - height // 2}" width="{width}" height="{height}"/>'
        if bar.failed and bar.segments:
            x, size = self._x(bar.segments[-1].end), _CROSS
            cross = f"M{x - size:.1f} {y - size}l{2 * size} {2 * size}m0 {-2 * size}l{-2 * size} {2 * size}"
            yield f'<path class="cross" d="{cross}"/>'
        yield _text(_RIGHT + 14, y + 4, bar.outcome, "failed" if bar.failed else "muted")

    def _legend(self, y: int) -> Iterator[str]:
        x = _LEFT
        for state, height in _HEIGHTS.items():
            yield f'<rect class="{state}" x="{x}" y="{y - 4 - height // 2}" width="24" height="{height}"/>'
            yield _text(x + 30, y, state, "muted")
            x += 100


def _text(x: float, y: float, text: str, css_class: str = "", *, anchor: str = "start") -> str:
    attributes = f' class="{css_class}"' if css_class else ""
    attributes += f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{round(x, 1)}" y="{y}"{attributes}>{escape(text)}</text>'


def _tick_step(end: float) -> float:
    """Return the smallest step of 1, 2 or 5 times a power of ten that needs at most `_MAX_TICKS` ticks."""
    power = 10.0 ** math.floor(math.log10(end / _MAX_TICKS))
    return next(power * factor for factor in (1, 2, 5, 10) if end / (power * factor) <= _MAX_TICKS)


def _ms(seconds: float) -> str:
    return f"{round(seconds * 1000, 1):g} ms"
