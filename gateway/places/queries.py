"""Queries of the table of places, one statement each."""

from dataclasses import dataclass, fields
from typing import NamedTuple

from sqlalchemy import ColumnElement, FromClause, Integer, Text, and_, bindparam, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.places.folding import fold
from gateway.schema.tables import MAX_PLACE_ID, places


@dataclass
class Place:
    """A city with its GeoNames id. Latitude and longitude are in degrees (WGS 84); the time zone is an IANA name."""

    id: int
    name: str
    ascii_name: str
    country_code: str
    admin1_code: str
    latitude: float
    longitude: float
    population: int
    timezone: str
    observation_count: int


class PlacePosition(NamedTuple):
    """The position of a place in the order of a search: the largest population first, then the lowest id."""

    population: int
    id: int


BEFORE_ALL_PLACES = PlacePosition(2**31 - 1, 0)  # the largest population of an integer column

PLACE_COLUMNS = [places.c[field.name] for field in fields(Place)]

_BY_ID = select(*PLACE_COLUMNS).where(places.c.id == bindparam("place_id"))


def _is_after_position(table: FromClause) -> ColumnElement[bool]:
    """Select the places after a position. The first condition is the range of the index on the population and the id."""
    population, place_id = bindparam("population", type_=Integer), bindparam("place_id", type_=Integer)
    return and_(table.c.population <= population, or_(table.c.population < population, table.c.id > place_id))


_LARGEST = (
    select(*PLACE_COLUMNS)
    .where(_is_after_position(places))
    .order_by(places.c.population.desc(), places.c.id)
    .limit(bindparam("limit"))
)

# Folded names are sorted by code point. The names with a prefix lie between the prefix and the prefix followed by the last
# code point of Unicode. Unlike LIKE, such a range needs no escapes and can use an index in a generic plan.
_FIRST, _LAST = bindparam("first", type_=Text), bindparam("last", type_=Text)
_LAST_CODE_POINT = "\U0010ffff"
# Materialised, because PostgreSQL could otherwise scan all places by population until enough of them match.
_matching = (
    select(*PLACE_COLUMNS)
    .where(or_(places.c.folded_name.between(_FIRST, _LAST), places.c.folded_ascii_name.between(_FIRST, _LAST)))
    .cte("matching")
    .prefix_with("MATERIALIZED")
)
_BY_PREFIX = (
    select(_matching)
    .where(_is_after_position(_matching))
    .order_by(_matching.c.population.desc(), _matching.c.id)
    .limit(bindparam("limit"))
)


async def search_places(
    connection: AsyncConnection, prefix: str, limit: int, after: PlacePosition = BEFORE_ALL_PLACES
) -> list[Place]:
    """Find the places whose name or ASCII name begins with `prefix`.

    Case, accent encoding, the style of quotes and leading spaces are ignored. An empty prefix finds the most populous
    places. A prefix that PostgreSQL cannot store (NUL, lone surrogates) finds nothing.

    Args:
        connection: runs the query.
        prefix: any text.
        limit: the maximum number of places, at least 0.
        after: the position of the last place of the previous page.

    Returns:
        The places by population, the largest first, then by id.
    """
    folded = fold(prefix.lstrip())
    if not _is_storable(folded):
        return []
    parameters = {"population": after.population, "place_id": after.id, "limit": limit}
    if not folded:
        rows = await connection.execute(_LARGEST, parameters)
    else:
        rows = await connection.execute(_BY_PREFIX, {"first": folded, "last": folded + _LAST_CODE_POINT, **parameters})
    return [Place(*row) for row in rows]


async def get_place(connection: AsyncConnection, place_id: int) -> Place | None:
    """Fetch a place by its id. Return None if there is no such place."""
    if not 0 <= place_id <= MAX_PLACE_ID:
        return None
    row = (await connection.execute(_BY_ID, {"place_id": place_id})).first()
    return None if row is None else Place(*row)


def _is_storable(text: str) -> bool:
    """Return whether PostgreSQL can store a text: it accepts UTF-8, which has no lone surrogates, without NUL."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
