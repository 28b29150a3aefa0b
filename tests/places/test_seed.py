"""Loading the places."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.devstack.postgresql import PostgreSQL
from gateway.places.folding import fold
from gateway.places.queries import get_place
from gateway.places.seed import SHIPPED_TABLE, SeedResult, load, read, seed
from gateway.schema.revision import SchemaMismatchError
from gateway.schema.tables import observations, places
from gateway.schema.transaction import transaction
from tests.support.waiting import TIMEOUT

SHIPPED = list(read(SHIPPED_TABLE))
COUNT = select(func.count()).select_from(places)
WAITING = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")


def place(place_id: int, name: str) -> tuple[Any, ...]:
    """A row that is in no table; GeoNames has no ids this small."""
    return (place_id, name, name, "CH", "ZH", 47.0, 8.5, 20000, "Europe/Zurich", fold(name), fold(name))


class TestShippedTable:
    def test_it_has_some_thirty_thousand_places_each_once(self) -> None:
        assert 30_000 < len(SHIPPED) < 40_000
        assert len({row[0] for row in SHIPPED}) == len(SHIPPED)

    def test_it_knows_zurich(self) -> None:
        row = (2657896, "Zürich", "Zurich", "CH", "ZH", 47.36667, 8.55, 415367, "Europe/Zurich")
        assert (*row, fold("Zürich"), "zurich") in SHIPPED

    def test_its_values_make_sense(self) -> None:
        def makes_sense(row: tuple[Any, ...]) -> bool:
            _, name, ascii_name, country_code, _, latitude, longitude, population, timezone, *_ = row
            return (
                name == name.strip() != ""
                and ascii_name == ascii_name.strip() != ""
                and ascii_name.isascii()
                and len(country_code) == 2
                and -90 <= latitude <= 90
                and -180 <= longitude <= 180
                and population >= 0
                and "/" in timezone
            )

        assert [row for row in SHIPPED if not makes_sense(row)] == []


class TestSeed:
    async def test_the_first_time_inserts_everything_and_the_second_time_nothing(self, database: str) -> None:
        assert await seed(database) == SeedResult(inserted=len(SHIPPED), updated=0, unchanged=0)
        assert await seed(database) == SeedResult(inserted=0, updated=0, unchanged=len(SHIPPED))

    async def test_postgresql_knows_at_once_how_many_there_are(self, full: AsyncConnection) -> None:
        estimate = text("SELECT reltuples FROM pg_class WHERE oid = 'places'::regclass")
        assert await full.scalar(estimate) == len(SHIPPED)

    async def test_of_replicas_that_seed_at_once_one_does_and_the_other_waits(self, database: str) -> None:
        async with (
            asyncio.timeout(2 * TIMEOUT),
            asyncio.TaskGroup() as replicas,
            transaction(database, application_name="test") as other,
        ):
            await other.execute(text("SELECT pg_advisory_xact_lock(4711002)"))
            done = [replicas.create_task(seed(database)) for _ in range(2)]
            while await other.scalar(WAITING) != 2:  # noqa: ASYNC110 - only PostgreSQL knows
                await asyncio.sleep(0.01)
            assert await other.scalar(COUNT) == 0
        assert sorted(task.result().inserted for task in done) == [0, len(SHIPPED)]

    async def test_a_database_that_was_not_migrated_is_told_so(self, postgresql_server: PostgreSQL) -> None:
        with pytest.raises(SchemaMismatchError, match="run `gateway migrate`"):
            await seed(await postgresql_server.create_database("places_not_migrated"))


class TestLoad:
    """What `seed` does inside its transaction."""

    async def test_new_changed_and_unchanged_are_told_apart(self, full: AsyncConnection) -> None:
        changed = (*SHIPPED[0][:1], "Turicum", *SHIPPED[0][2:])
        done = await load(full, [changed, SHIPPED[1], SHIPPED[2], place(1, "New")])
        assert done == SeedResult(inserted=1, updated=1, unchanged=2)
        assert str(done) == "1 places inserted, 1 updated, 2 unchanged"

    @pytest.mark.parametrize("column", range(1, len(SHIPPED[0])))
    async def test_a_difference_in_any_column_is_put_right(self, full: AsyncConnection, column: int) -> None:
        right = place(1, "Right")
        value = right[column]
        wrong = (*right[:column], f"{value}!" if isinstance(value, str) else value + 1, *right[column + 1 :])
        await load(full, [wrong])
        await full.execute(text("DROP TABLE incoming"))  # as the commit does

        assert await load(full, [right]) == SeedResult(inserted=0, updated=1, unchanged=0)
        stored = (await full.execute(select(places).where(places.c.id == 1))).one()
        assert stored[: len(right)] == right

    async def test_counts_and_observations_stay(self, full: AsyncConnection) -> None:
        changed, unchanged = SHIPPED[:2]
        await full.execute(
            update(places).values(observation_count=7).where(places.c.id.in_([changed[0], unchanged[0]]))
        )
        await full.execute(insert(observations).values(place_id=changed[0], temperature_c=1.5, condition="fog"))

        await load(full, [(*changed[:1], "Turicum", *changed[2:]), unchanged])

        found = [await get_place(full, changed[0]), await get_place(full, unchanged[0])]
        assert [(row.name, row.observation_count) for row in found if row] == [("Turicum", 7), (unchanged[1], 7)]
        assert await full.scalar(select(observations.c.place_id)) == changed[0]

    async def test_places_that_are_not_in_the_table_stay(self, full: AsyncConnection) -> None:
        assert await load(full, SHIPPED[:1]) == SeedResult(inserted=0, updated=0, unchanged=1)
        assert await full.scalar(COUNT) == len(SHIPPED)

    async def test_an_unchanged_place_can_be_counted_meanwhile(self, full: AsyncConnection, full_database: str) -> None:
        await load(full, SHIPPED[:1])
        async with transaction(full_database, application_name="test") as counting:
            await counting.execute(text("SET LOCAL lock_timeout = '1s'"))
            await counting.execute(update(places).where(places.c.id == SHIPPED[0][0]).values(observation_count=1))
            await counting.rollback()
