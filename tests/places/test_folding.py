"""Folding: which spellings of a name are the same to a search."""

import unicodedata

import pytest

from gateway.places.folding import fold
from gateway.places.seed import SHIPPED_TABLE, read

NAMES = [row[1] for row in read(SHIPPED_TABLE)]


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("Zürich", "ZÜRICH"),
        ("Zürich", "Zu\N{COMBINING DIAERESIS}rich"),
        ("Weißwasser", "WEISSWASSER"),
        ("I\u011fd\N{LATIN SMALL LETTER DOTLESS I}r", "I\u011eDIR"),
        ("İstanbul", "istanbul"),
        ("L\N{RIGHT SINGLE QUOTATION MARK}Haÿ-les-Roses", "l'haÿ-les-roses"),
        ("Dar\N{LEFT SINGLE QUOTATION MARK}ā", "Dar'ā"),
        ("Dar`a", "Dar'a"),
        ("\N{MODIFIER LETTER TURNED COMMA}Ewa", "'ewa"),
        ("Mercier\N{EN DASH}Hochelaga", "mercier-hochelaga"),
    ],
)
def test_case_encoding_and_typography_do_not_matter(name: str, typed: str) -> None:
    assert fold(name) == fold(typed)


@pytest.mark.parametrize(("one", "other"), [("Zürich", "Zurich"), ("São", "Sáo"), ("Łódź", "Lodz"), ("a b", "ab")])
def test_accents_letters_and_spaces_do(one: str, other: str) -> None:
    assert fold(one) != fold(other)


def test_every_shipped_name_is_found_in_capitals() -> None:
    assert [name for name in NAMES if fold(name.upper()) != fold(name)] == []


def test_every_shipped_name_is_found_with_its_accents_taken_apart() -> None:
    assert [name for name in NAMES if fold(unicodedata.normalize("NFD", name)) != fold(name)] == []


def test_what_has_been_typed_of_a_shipped_name_is_a_prefix_all_the_way() -> None:
    lost = [
        name[:length] for name in NAMES for length in range(len(name)) if not fold(name).startswith(fold(name[:length]))
    ]
    assert lost == []
