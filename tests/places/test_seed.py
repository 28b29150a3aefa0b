"""The shipped places, and loading them into a database."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.devstack.postgresql import PostgreSQLServer
from gateway.places.folding import fold
from gateway.places.queries import get_place
from gateway.places.seed import SeedResult, load, seed
from gateway.schema.lock_waits import LockWaitError
from gateway.schema.revision import SchemaMismatchError
from gateway.schema.tables import observations, places
from gateway.schema.transaction import transaction
from tests.support.shipped_places import SHIPPED
from tests.support.waiting import TIMEOUT, wait_until

COUNT = select(func.count()).select_from(places)


def place(place_id: int, name: str) -> tuple[Any, ...]:
    """Return a row that is not in the shipped table, because GeoNames has no ids this small."""
    return (place_id, name, name, "CH", "ZH", 47.0, 8.5, 20000, "Europe/Zurich", fold(name), fold(name))


class TestShippedTable:
    def test_ids_are_unique(self) -> None:
        """The table has some thirty thousand places with different ids."""
        assert 30_000 < len(SHIPPED) < 40_000
        assert len({row[0] for row in SHIPPED}) == len(SHIPPED)

    def test_contains_zurich(self) -> None:
        """The row of Zürich has the values of GeoNames and the folded names."""
        row = (2657896, "Zürich", "Zurich", "CH", "ZH", 47.36667, 8.55, 415367, "Europe/Zurich")
        assert (*row, fold("Zürich"), "zurich") in SHIPPED

    def test_values_are_plausible(self) -> None:
        """Each row has names, a country code, coordinates, a population and a time zone in their valid ranges."""

        def is_plausible(row: tuple[Any, ...]) -> bool:
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

        assert [row for row in SHIPPED if not is_plausible(row)] == []


class TestSeed:
    async def test_second_seed_inserts_nothing(self, database: str) -> None:
        """The first seed inserts all places, the second one none."""
        assert await seed(database) == SeedResult(inserted=len(SHIPPED), updated=0, unchanged=0)
        assert await seed(database) == SeedResult(inserted=0, updated=0, unchanged=len(SHIPPED))

    async def test_statistics_are_up_to_date(self, full: AsyncConnection) -> None:
        """After a seed PostgreSQL's estimate of the number of places is exact."""
        estimate = text("SELECT reltuples FROM pg_class WHERE oid = 'places'::regclass")
        assert await full.scalar(estimate) == len(SHIPPED)

    async def test_concurrent_seeds_wait_for_each_other(self, database: str) -> None:
        """Of two concurrent seeds one inserts all places. Both report who holds the lock, and one inserts none."""
        reports: list[str] = []
        async with (
            asyncio.timeout(2 * TIMEOUT),
            asyncio.TaskGroup() as replicas,
            transaction(database, application_name="test") as locking,
        ):
            await locking.execute(text("SELECT pg_advisory_xact_lock(4711002)"))
            tasks = [replicas.create_task(seed(database, report=reports.append)) for _ in range(2)]
            await wait_until(lambda: len(reports) == 2, "both seeds wait for the lock")
            assert await locking.scalar(COUNT) == 0
            assert all("the seed waits for pid " in line and "(test, idle in transaction, " in line for line in reports)

        assert sorted(task.result().inserted for task in tasks) == [0, len(SHIPPED)]

    async def test_locked_table(self, database: str) -> None:
        """A seed that does not get its locks in time raises an error that names the session."""
        async with transaction(database, application_name="test") as locking:
            await locking.execute(text("LOCK TABLE places IN SHARE MODE"))
            with pytest.raises(
                LockWaitError, match=r"the seed .* within 0.1 s: end pid \d+ \(test, idle in transaction, "
            ):
                await seed(database, lock_wait=0.1)

    async def test_database_without_migrations(self, postgresql_server: PostgreSQLServer) -> None:
        """A database that was not migrated raises an error that names the command."""
        with pytest.raises(SchemaMismatchError, match="run `gateway migrate`"):
            await seed(await postgresql_server.create_database("places_not_migrated"))


class TestLoad:
    """The part of `seed` inside its transaction."""

    async def test_result_counts(self, full: AsyncConnection) -> None:
        """The result has the numbers of inserted, updated and unchanged places."""
        changed = (*SHIPPED[0][:1], "Turicum", *SHIPPED[0][2:])

        result = await load(full, [changed, SHIPPED[1], SHIPPED[2], place(1, "New")])

        assert result == SeedResult(inserted=1, updated=1, unchanged=2)
        assert str(result) == "1 places inserted, 1 updated, 2 unchanged"

    @pytest.mark.parametrize("column", range(1, len(SHIPPED[0])))
    async def test_difference_in_any_column_is_updated(self, full: AsyncConnection, column: int) -> None:
        """A row that differs in one column is updated."""
        right = place(1, "Right")
        value = right[column]
        wrong = (*right[:column], f"{value}!" if isinstance(value, str) else value + 1, *right[column + 1 :])
        await load(full, [wrong])
        await full.execute(text("DROP TABLE incoming"))  # as the commit does

        assert await load(full, [right]) == SeedResult(inserted=0, updated=1, unchanged=0)
        stored = (await full.execute(select(places).where(places.c.id == 1))).one()
        assert stored[: len(right)] == right

    async def test_counts_and_observations_stay(self, full: AsyncConnection) -> None:
        """Neither the observation counts nor the observations change, whether the place is updated or not."""
        changed, unchanged = SHIPPED[:2]
        await full.execute(
            update(places).values(observation_count=7).where(places.c.id.in_([changed[0], unchanged[0]]))
        )
        await full.execute(insert(observations).values(place_id=changed[0], temperature_c=1.5, condition="fog"))

        await load(full, [(*changed[:1], "Turicum", *changed[2:]), unchanged])

        found = [await get_place(full, changed[0]), await get_place(full, unchanged[0])]
        assert [(row.name, row.observation_count) for row in found if row] == [("Turicum", 7), (unchanged[1], 7)]
        assert await full.scalar(select(observations.c.place_id)) == changed[0]

    async def test_other_places_stay(self, full: AsyncConnection) -> None:
        """Places that are not among the rows are not deleted."""
        assert await load(full, SHIPPED[:1]) == SeedResult(inserted=0, updated=0, unchanged=1)
        assert await full.scalar(COUNT) == len(SHIPPED)

    async def test_unchanged_places_are_not_locked(self, full: AsyncConnection, full_database: str) -> None:
        """While a load is not committed, another transaction can update the count of an unchanged place."""
        await load(full, SHIPPED[:1])
        async with transaction(full_database, application_name="test") as counting:
            await counting.execute(text("SET LOCAL lock_timeout = '1s'"))
            await counting.execute(update(places).where(places.c.id == SHIPPED[0][0]).values(observation_count=1))
            await counting.rollback()
