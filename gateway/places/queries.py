"""What is asked of the table of places: one statement each."""

from dataclasses import dataclass, fields

from sqlalchemy import Text, bindparam, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.places.folding import fold
from gateway.schema.tables import MAX_PLACE_ID, places


@dataclass
class Place:
    """A city. The id is GeoNames'; latitude and longitude are in degrees (WGS 84), the timezone is IANA's name."""

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


PLACE_COLUMNS = [places.c[field.name] for field in fields(Place)]
"""As `Place` has them."""

_BY_ID = select(*PLACE_COLUMNS).where(places.c.id == bindparam("place_id"))
_LARGEST = select(*PLACE_COLUMNS).order_by(places.c.population.desc(), places.c.id).limit(bindparam("limit"))

# Folded names are in the order of their code points: what begins with a prefix lies between it and it followed by the
# last code point there is. A range needs no escapes (as LIKE does), and an index serves it with any kind of plan.
_FIRST, _LAST = bindparam("first", type_=Text), bindparam("last", type_=Text)
_LAST_CODE_POINT = "\U0010ffff"
# Materialised, because PostgreSQL may otherwise walk through all places by population until enough of them match.
_matching = (
    select(*PLACE_COLUMNS)
    .where(or_(places.c.folded_name.between(_FIRST, _LAST), places.c.folded_ascii_name.between(_FIRST, _LAST)))
    .cte("matching")
    .prefix_with("MATERIALIZED")
)
_BY_PREFIX = select(_matching).order_by(_matching.c.population.desc(), _matching.c.id).limit(bindparam("limit"))


async def search_places(connection: AsyncConnection, prefix: str, limit: int) -> list[Place]:
    """Find the places whose name, or its ASCII form, begins with `prefix`; the most populous first, then by id.

    Case does not matter, nor do spaces before the prefix, nor how its accents are encoded or its quotes drawn. An empty
    prefix finds the most populous places of all. Any `str` will do: one that no name can begin with finds nothing, even
    if PostgreSQL could not hold it (NUL, lone surrogates). `limit` is at least 0.
    """
    folded = fold(prefix.lstrip())
    if not _storable(folded):
        return []
    if not folded:
        rows = await connection.execute(_LARGEST, {"limit": limit})
    else:
        rows = await connection.execute(
            _BY_PREFIX, {"first": folded, "last": folded + _LAST_CODE_POINT, "limit": limit}
        )
    return [Place(*row) for row in rows]


async def get_place(connection: AsyncConnection, place_id: int) -> Place | None:
    """Fetch a place by its id. None: there is no such place, or cannot be, since the id is out of range."""
    if not 0 <= place_id <= MAX_PLACE_ID:
        return None
    row = (await connection.execute(_BY_ID, {"place_id": place_id})).first()
    return None if row is None else Place(*row)


def _storable(text: str) -> bool:
    """Whether PostgreSQL can hold a text: it takes UTF-8, which has no lone surrogates, without NUL."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
