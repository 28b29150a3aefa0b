"""The timeline for people: a table with bars on a terminal, the same without colours elsewhere."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from gateway.lifecycle import CheckResult, Journal, spans

_WIDTH = 32
_UNFOLDED = 400


def show_timeline(journal: Journal, checks: Sequence[CheckResult] = (), *, console: Console | None = None) -> None:
    """Print one line an entry: when it was entering (░), held (█) and exiting (▒), and how that ended."""
    console = console or Console()
    if not console.is_terminal:
        console.width = _UNFOLDED  # one line an entry, however long: that is for programs to read, or to fold
    found = {check.name: check for check in checks}
    lives = spans(journal)
    end = max((event.at for event in journal), default=0.0)
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False)
    table.add_column("entry", style="bold", no_wrap=True)
    table.add_column("enter ms", justify="right")
    table.add_column("exit ms", justify="right")
    table.add_column(f"0 to {end * 1000:.0f} ms", no_wrap=True, style="cyan", min_width=_WIDTH)
    if checks:
        table.add_column("check", overflow="fold")
    table.add_column("outcome", overflow="fold")
    for life in lives:
        row = [
            life.name,
            _between(life.entering, life.entered),
            _between(life.exiting, life.exited),
            life.bar(end, _WIDTH),
        ]
        if checks:
            check = found.get(life.name)
            row.append("" if check is None else f"{'ok' if check.ok else 'FAILED'} {check.detail or ''}")
        table.add_row(*row, life.outcome)
    console.print(table, crop=False)


def _between(begin: float | None, end: float | None) -> str:
    return "" if begin is None or end is None else f"{(end - begin) * 1000:.1f}"
