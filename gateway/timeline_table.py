"""The timeline of a run as a table with bars, coloured on a terminal."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from gateway.lifecycle import CheckResult, Journal, spans

_BAR_WIDTH = 32
_PLAIN_WIDTH = 400  # outside of a terminal: one line for each entry, which programs can parse


def show_timeline(journal: Journal, checks: Sequence[CheckResult] = (), *, console: Console | None = None) -> None:
    """Print one line for each entry: when it was entering (░), active (█) and exiting (▒), and the outcome."""
    console = console or Console()
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH
    check_by_name = {check.name: check for check in checks}
    end = max((event.at for event in journal), default=0.0)
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)
    table.add_column("entry", style="bold", no_wrap=True)
    table.add_column("enter ms", justify="right")
    table.add_column("exit ms", justify="right")
    table.add_column(f"0 to {end * 1000:.0f} ms", no_wrap=True, style="cyan", min_width=_BAR_WIDTH)
    if checks:
        table.add_column("check", overflow="fold")
    table.add_column("outcome", overflow="fold")
    for span in spans(journal):
        row = [
            span.name,
            _duration_ms(span.entering, span.entered),
            _duration_ms(span.exiting, span.exited),
            span.bar(end, _BAR_WIDTH),
        ]
        if checks:
            check = check_by_name.get(span.name)
            row.append("" if check is None else f"{'ok' if check.ok else 'FAILED'} {check.detail or ''}")
        table.add_row(*row, span.outcome)
    console.print(table, crop=False)


def _duration_ms(start: float | None, end: float | None) -> str:
    return "" if start is None or end is None else f"{(end - start) * 1000:.1f}"
