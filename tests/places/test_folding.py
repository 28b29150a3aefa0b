"""Folding: the spellings of a name that are equal in a search."""

import unicodedata

import pytest

from gateway.places.folding import fold
from tests.support.shipped_places import SHIPPED

NAMES = [row[1] for row in SHIPPED]


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
def test_equal_spellings(name: str, typed: str) -> None:
    """Spellings that differ in case, accent encoding, quotes or dashes are equal."""
    assert fold(name) == fold(typed)


@pytest.mark.parametrize(("one", "other"), [("Zürich", "Zurich"), ("São", "Sáo"), ("Łódź", "Lodz"), ("a b", "ab")])
def test_different_spellings(one: str, other: str) -> None:
    """Accents, letters and spaces make a difference."""
    assert fold(one) != fold(other)


def test_shipped_names_in_capitals() -> None:
    """Each shipped name is equal to its spelling in capitals."""
    assert [name for name in NAMES if fold(name.upper()) != fold(name)] == []


def test_shipped_names_with_decomposed_accents() -> None:
    """Each shipped name is equal to its spelling with decomposed accents."""
    assert [name for name in NAMES if fold(unicodedata.normalize("NFD", name)) != fold(name)] == []


def test_beginning_of_a_name_folds_to_a_prefix() -> None:
    """Each beginning of a shipped name, as it is typed, folds to a prefix of the folded name."""
    lost = [
        name[:length] for name in NAMES for length in range(len(name)) if not fold(name).startswith(fold(name[:length]))
    ]

    assert lost == []
