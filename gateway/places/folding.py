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
    """Forget case, and how accents are encoded; straighten quotes and dashes. Accents count: `ü` is not `u`.

    It is Unicode's canonical caseless match (the standard's D145), whose decomposed letters have this use here: what
    has been typed of a name is a prefix of it all the way. The table of places holds folded names: after a change here
    it has to be seeded again.
    """
    decomposed = unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())
    return decomposed.translate(_TYPED).replace("i\N{COMBINING DOT ABOVE}", "i")
