"""Queries of the table of places, with all shipped places."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.places import queries
from gateway.places.folding import fold
from gateway.places.queries import Place, PlacePosition, get_place, search_places
from gateway.schema.tables import MAX_PLACE_ID, places
from tests.support.shipped_places import SHIPPED

ZURICH = Place(
    id=2657896,
    name="Zürich",
    ascii_name="Zurich",
    country_code="CH",
    admin1_code="ZH",
    latitude=47.36667,
    longitude=8.55,
    population=415367,
    timezone="Europe/Zurich",
    observation_count=0,
)
PAGE = "415367, 2657896, 10"  # the position of Zürich, and the limit


def expected(prefix: str, limit: int) -> list[int]:
    """Return the ids that a search should find, computed without an index."""
    folded = fold(prefix.lstrip())
    found = [place for place in SHIPPED if place[9].startswith(folded) or place[10].startswith(folded)]
    return [place[0] for place in sorted(found, key=lambda place: (-place[7], place[0]))][:limit]


class TestSearch:
    @pytest.mark.parametrize("prefix", ["zur", "zür", "ZUR", "ZÜR", "zu\N{COMBINING DIAERESIS}r", "Zürich", "  zurich"])
    async def test_spellings_of_zurich(self, full: AsyncConnection, prefix: str) -> None:
        """The name and the ASCII name are found in any case and with either encoding of the accent."""
        assert (await search_places(full, prefix, 1)) == [ZURICH]

    async def test_wrong_accent_finds_nothing(self, full: AsyncConnection) -> None:
        """An accent in the prefix must be that of the name."""
        assert [place.name for place in await search_places(full, "são paulo", 1)] == ["São Paulo"]
        assert await search_places(full, "sáo paulo", 1) == []

    @pytest.mark.parametrize("prefix", ["", " ", "s", "san ", "San José", "o'f", "x", "ẞ", "İ", "no such place", "z"])
    @pytest.mark.parametrize("limit", [0, 1, 10, 100])
    async def test_results_and_order(self, full: AsyncConnection, prefix: str, limit: int) -> None:
        """A search finds all matching places up to the limit, sorted by population and id."""
        assert [place.id for place in await search_places(full, prefix, limit)] == expected(prefix, limit)

    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(prefix=st.one_of(st.sampled_from(SHIPPED).map(lambda place: str(place[1])), st.text(max_size=4)))
    async def test_arbitrary_prefixes(self, full: AsyncConnection, prefix: str) -> None:
        """Any text finds the places whose name begins with it."""
        assert [place.id for place in await search_places(full, prefix, 5)] == expected(prefix, 5)

    @pytest.mark.parametrize("prefix", ["%", "_", "\\", "zur%", "z_r", "zur\\", "'", '"', "z" * 100_000])
    async def test_no_character_is_special(self, full: AsyncConnection, prefix: str) -> None:
        """Wildcards, quotes and backslashes are ordinary characters, and a very long prefix is accepted."""
        assert [place.id for place in await search_places(full, prefix, 10)] == expected(prefix, 10)

    @pytest.mark.parametrize("prefix", ["\0", "zur\0", "\ud800", "zur\udfff", "\U0010ffff", "zur\U0010ffff"])
    async def test_prefix_that_cannot_be_stored(self, full: AsyncConnection, prefix: str) -> None:
        """A prefix that no stored name can have finds nothing, and is no error."""
        assert await search_places(full, prefix, 10) == []

    async def test_equal_populations_are_ordered_by_id(self, full: AsyncConnection) -> None:
        """Places with the same population are sorted by id."""
        values = dict(vars(ZURICH))
        values |= {"population": 50_000_000, "folded_name": fold("Zzz"), "folded_ascii_name": fold("Zzz")}
        await full.execute(insert(places), [values | {"id": place_id} for place_id in (3, 1, 2)])

        assert [place.id for place in await search_places(full, "zzz", 10)] == [1, 2, 3]
        assert [place.id for place in await search_places(full, "", 3)] == [1, 2, 3]

    @pytest.mark.parametrize("prefix", ["", "san ", "zzz"])
    @pytest.mark.parametrize("page", [1, 7])
    async def test_pages_are_the_list_in_pieces(self, full: AsyncConnection, prefix: str, page: int) -> None:
        """Each page continues after the last place of the previous one, also between places with the same population."""
        values = dict(vars(ZURICH))
        values |= {"population": 50_000_000, "folded_name": fold("Zzz"), "folded_ascii_name": fold("Zzz")}
        await full.execute(insert(places), [values | {"id": place_id} for place_id in range(1, 20)])
        first = await search_places(full, prefix, 40)

        found = await search_places(full, prefix, page)
        while len(found) < len(first):
            position = PlacePosition(found[-1].population, found[-1].id)
            next_page = await search_places(full, prefix, page, position)
            assert next_page
            found += next_page

        assert found[: len(first)] == first


class TestPlans:
    """The plans of PostgreSQL, custom (for the values of the parameters) and generic (for any values)."""

    @pytest.mark.parametrize("plan_mode", ["custom", "generic"])
    @pytest.mark.parametrize("prefix", ["zur", "s", "xqz"])
    async def test_prefix_search_uses_both_indexes(self, full: AsyncConnection, plan_mode: str, prefix: str) -> None:
        """A prefix is looked up in the indexes of the name and of the ASCII name."""
        assert {
            ("Bitmap Heap Scan", "places"),
            ("Bitmap Index Scan", "ix_places_folded_name"),
            ("Bitmap Index Scan", "ix_places_folded_ascii_name"),
        } == await _scans(full, plan_mode, queries._BY_PREFIX, f"'{prefix}', '{prefix}\U0010ffff', {PAGE}")

    @pytest.mark.parametrize("plan_mode", ["custom", "generic"])
    async def test_most_populous_use_an_index(self, full: AsyncConnection, plan_mode: str) -> None:
        """The most populous places are read in the order of an index."""
        assert {("Index Scan", "ix_places_population_id")} == await _scans(full, plan_mode, queries._LARGEST, PAGE)

    @pytest.mark.parametrize("plan_mode", ["custom", "generic"])
    async def test_page_begins_in_the_index(self, full: AsyncConnection, plan_mode: str) -> None:
        """The page after a position does not read the places before it."""
        limit = await _plan(full, plan_mode, queries._LARGEST, PAGE)

        assert limit["Plans"][0]["Index Cond"].startswith("(population <= ")

    @pytest.mark.parametrize("plan_mode", ["custom", "generic"])
    async def test_place_by_id_uses_the_primary_key(self, full: AsyncConnection, plan_mode: str) -> None:
        """A place is looked up by its primary key."""
        assert {("Index Scan", "pk_places")} == await _scans(full, plan_mode, queries._BY_ID, "2657896")


class TestGet:
    async def test_known_place(self, full: AsyncConnection) -> None:
        """A place is returned with all its columns."""
        assert await get_place(full, ZURICH.id) == ZURICH

    @pytest.mark.parametrize("place_id", [1, 0, -1, MAX_PLACE_ID, MAX_PLACE_ID + 1, -(10**30), 10**30])
    async def test_unknown_place_is_none(self, full: AsyncConnection, place_id: int) -> None:
        """An unknown id and an id out of range give None."""
        assert await get_place(full, place_id) is None


async def _plan(connection: AsyncConnection, plan_mode: str, statement: Any, arguments: str) -> dict[str, Any]:
    """Return the plan of a prepared statement, in PostgreSQL's JSON format."""
    sql = str(statement.compile(connection.sync_connection))
    await connection.execute(text(f"SET plan_cache_mode = force_{plan_mode}_plan"))
    await connection.exec_driver_sql(f"PREPARE query AS {sql}")
    result = await connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) EXECUTE query({arguments})")
    explained = result.scalar_one()
    plan: dict[str, Any] = (json.loads(explained) if isinstance(explained, str) else explained)[0]["Plan"]
    return plan


async def _scans(connection: AsyncConnection, plan_mode: str, statement: Any, arguments: str) -> set[tuple[str, str]]:
    """Return each scan in the plan of a prepared statement, with the index or the table that it scans."""
    found = set()
    nodes = [await _plan(connection, plan_mode, statement, arguments)]
    for node in nodes:
        nodes += node.get("Plans", [])
        if relation := node.get("Index Name", node.get("Relation Name")):
            found.add((node["Node Type"], relation))
    return found
