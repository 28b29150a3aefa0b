"""Numbers and tables in Markdown."""

from collections.abc import Iterable, Sequence

_THREE_DIGITS_BELOW = 100


def format_number(value: float | None) -> str:
    """Return the value with three significant digits. None: an empty string."""
    if value is None:
        return ""
    return f"{value:.3g}" if abs(value) < _THREE_DIGITS_BELOW else f"{value:,.0f}"


def format_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1) -> str:
    """Return a table. The columns after the first `text_columns` are right-aligned."""
    alignment = ["---" if column < text_columns else "---:" for column in range(len(head))]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [head, alignment, *rows])
