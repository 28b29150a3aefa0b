"""Folding: the normalisation of names for the search, which ignores case, accent encoding and the style of quotes."""

import unicodedata

# From characters that GeoNames uses to those on a keyboard. The dotless i is included because its capital is a plain I.
_TO_KEYBOARD = str.maketrans(
    {
        "\N{RIGHT SINGLE QUOTATION MARK}": "'",
        "\N{LEFT SINGLE QUOTATION MARK}": "'",
        "\N{MODIFIER LETTER TURNED COMMA}": "'",
        "\N{GRAVE ACCENT}": "'",
        "\N{EN DASH}": "-",
        "\N{LATIN SMALL LETTER DOTLESS I}": "i",
    }
)


def fold(text: str) -> str:
    """Remove the differences of case and accent encoding, and straighten quotes and dashes. `ü` and `u` stay different.

    It implements Unicode's canonical caseless match (definition D145 of the standard). The result is decomposed, so that
    each prefix of a name folds to a prefix of the folded name. The table of places stores folded names: run `gateway seed`
    after a change of this function.
    """
    decomposed = unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())
    return decomposed.translate(_TO_KEYBOARD).replace("i\N{COMBINING DOT ABOVE}", "i")
