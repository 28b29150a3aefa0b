"""Lists of items for the terminal: aligned columns, or JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def format_items(items: "Sequence[DataclassInstance]") -> str:
    """Return a line with the names of the fields, and a line for each item. The values may come from anywhere."""
    dictionaries = [asdict(item) for item in items]
    columns = [name for name in dictionaries[0] if any(item[name] is not None for item in dictionaries)]
    rows = [columns, *([_cell(item[name]) for name in columns] for item in dictionaries)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def format_json(items: "Sequence[DataclassInstance]") -> str:
    return json.dumps({"items": [asdict(item) for item in items]}, default=str)


def _cell(value: Any) -> str:
    """Return a value in one line, without control characters, which could change the terminal."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "".join(character if character.isprintable() else "?" for character in str(value))
