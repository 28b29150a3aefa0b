"""What makes two spellings of a name the same to a search."""

import unicodedata

# What keyboards type for what GeoNames writes. A dotless i is there because its capital is the I that is also that of i.
_TYPED = str.maketrans(
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
    """Forget case, and how accents are encoded; straighten quotes and dashes. Accents stay: `Zürich` is `zürich`.

    The table of places holds folded names: after a change here it has to be seeded again.
    """
    # Composed twice, because casefold takes some letters apart.
    composed = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return composed.translate(_TYPED).replace("i\N{COMBINING DOT ABOVE}", "i")
