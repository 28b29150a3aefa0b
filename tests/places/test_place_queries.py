"""Asking for places, of the full table."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.places import queries
from gateway.places.folding import fold
from gateway.places.queries import Place, get_place, search_places
from gateway.places.seed import SHIPPED_TABLE, read
from gateway.schema.tables import MAX_PLACE_ID, places

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
SHIPPED = list(read(SHIPPED_TABLE))


def expected(prefix: str, limit: int) -> list[int]:
    """The ids that a search should find, worked out the long way."""
    folded = fold(prefix.lstrip())
    found = [place for place in SHIPPED if place[9].startswith(folded) or place[10].startswith(folded)]
    return [place[0] for place in sorted(found, key=lambda place: (-place[7], place[0]))][:limit]


class TestSearch:
    @pytest.mark.parametrize("prefix", ["zur", "zür", "ZUR", "ZÜR", "zu\N{COMBINING DIAERESIS}r", "Zürich", "  zurich"])
    async def test_name_and_ascii_form_in_any_case_find_zurich(self, full: AsyncConnection, prefix: str) -> None:
        assert (await search_places(full, prefix, 1)) == [ZURICH]

    async def test_an_accent_that_was_typed_counts(self, full: AsyncConnection) -> None:
        assert [place.name for place in await search_places(full, "são paulo", 1)] == ["São Paulo"]
        assert await search_places(full, "sáo paulo", 1) == []

    @pytest.mark.parametrize("prefix", ["", " ", "s", "san ", "San José", "o'f", "x", "ẞ", "İ", "no such place", "z"])
    @pytest.mark.parametrize("limit", [0, 1, 10, 100])
    async def test_it_finds_exactly_these_in_this_order(self, full: AsyncConnection, prefix: str, limit: int) -> None:
        assert [place.id for place in await search_places(full, prefix, limit)] == expected(prefix, limit)

    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(prefix=st.one_of(st.sampled_from(SHIPPED).map(lambda place: str(place[1])), st.text(max_size=4)))
    async def test_whatever_is_typed_it_finds_what_begins_with_it(self, full: AsyncConnection, prefix: str) -> None:
        assert [place.id for place in await search_places(full, prefix, 5)] == expected(prefix, 5)

    @pytest.mark.parametrize("prefix", ["%", "_", "\\", "zur%", "z_r", "zur\\", "'", '"', "z" * 100_000])
    async def test_no_character_is_special(self, full: AsyncConnection, prefix: str) -> None:
        assert [place.id for place in await search_places(full, prefix, 10)] == expected(prefix, 10)

    @pytest.mark.parametrize("prefix", ["\0", "zur\0", "\ud800", "zur\udfff", "\U0010ffff", "zur\U0010ffff"])
    async def test_what_no_name_can_hold_finds_nothing(self, full: AsyncConnection, prefix: str) -> None:
        assert await search_places(full, prefix, 10) == []

    async def test_places_as_populous_as_each_other_come_by_id(self, full: AsyncConnection) -> None:
        values = dict(vars(ZURICH))
        values |= {"population": 50_000_000, "folded_name": fold("Zzz"), "folded_ascii_name": fold("Zzz")}
        await full.execute(insert(places), [values | {"id": place_id} for place_id in (3, 1, 2)])
        assert [place.id for place in await search_places(full, "zzz", 10)] == [1, 2, 3]
        assert [place.id for place in await search_places(full, "", 3)] == [1, 2, 3]


class TestPlans:
    """What PostgreSQL does for a search, whether it plans for the very prefix or for any."""

    @pytest.mark.parametrize("plan_for", ["custom", "generic"])
    @pytest.mark.parametrize("prefix", ["zur", "s", "xqz"])
    async def test_a_prefix_is_looked_up_in_both_indexes(
        self, full: AsyncConnection, plan_for: str, prefix: str
    ) -> None:
        assert {
            ("Bitmap Heap Scan", "places"),
            ("Bitmap Index Scan", "ix_places_folded_name"),
            ("Bitmap Index Scan", "ix_places_folded_ascii_name"),
        } == await _scans(full, plan_for, queries._BY_PREFIX, f"'{prefix}', '{prefix}\U0010ffff', 10")

    @pytest.mark.parametrize("plan_for", ["custom", "generic"])
    async def test_the_most_populous_are_read_off_an_index(self, full: AsyncConnection, plan_for: str) -> None:
        assert {("Index Scan", "ix_places_population_id")} == await _scans(full, plan_for, queries._LARGEST, "10")

    @pytest.mark.parametrize("plan_for", ["custom", "generic"])
    async def test_a_place_is_looked_up_by_its_key(self, full: AsyncConnection, plan_for: str) -> None:
        assert {("Index Scan", "pk_places")} == await _scans(full, plan_for, queries._BY_ID, "2657896")


class TestGet:
    async def test_a_known_place(self, full: AsyncConnection) -> None:
        assert await get_place(full, ZURICH.id) == ZURICH

    @pytest.mark.parametrize("place_id", [1, 0, -1, MAX_PLACE_ID, MAX_PLACE_ID + 1, -(10**30), 10**30])
    async def test_an_unknown_place_is_none(self, full: AsyncConnection, place_id: int) -> None:
        assert await get_place(full, place_id) is None


async def _scans(connection: AsyncConnection, plan_for: str, statement: Any, arguments: str) -> set[tuple[str, str]]:
    """Each scan in the plan of a prepared statement, with the index or else the table that it scans."""
    sql = str(statement.compile(connection.sync_connection))
    await connection.execute(text(f"SET plan_cache_mode = force_{plan_for}_plan"))
    await connection.exec_driver_sql(f"PREPARE asked AS {sql}")
    answer = await connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) EXECUTE asked({arguments})")
    plan = answer.scalar_one()
    found = set()
    nodes = [json.loads(plan)[0]["Plan"] if isinstance(plan, str) else plan[0]["Plan"]]
    for node in nodes:
        nodes += node.get("Plans", [])
        if relation := node.get("Index Name", node.get("Relation Name")):
            found.add((node["Node Type"], relation))
    return found
