"""The tables: the migrations create what SQLAlchemy Core describes, and the constraints hold."""

from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, insert, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.schema.migrate import migrate
from gateway.schema.tables import CONDITIONS, MAX_NOTE_LENGTH, metadata, observations, places

# The tables in the catalogue of PostgreSQL: columns, constraints, indexes, options.
CATALOGUE = text("""
    SELECT 'column' AS kind, concat_ws(' ', table_name, column_name, data_type, collation_name, is_nullable,
        column_default, is_identity, identity_generation) AS definition
    FROM information_schema.columns WHERE table_schema = 'public'
    UNION ALL
    SELECT 'constraint', concat_ws(' ', conrelid::regclass, conname, pg_get_constraintdef(oid))
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'index', indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL
    SELECT 'options', concat_ws(' ', relname, reloptions)
    FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
    ORDER BY kind, definition
""")

ZURICH: dict[str, Any] = {
    "id": 2657896,
    "name": "Zürich",
    "ascii_name": "Zurich",
    "country_code": "CH",
    "admin1_code": "ZH",
    "latitude": 47.36667,
    "longitude": 8.55,
    "population": 415367,
    "timezone": "Europe/Zurich",
    "folded_name": "zürich",
    "folded_ascii_name": "zurich",
}
RAIN: dict[str, Any] = {"place_id": ZURICH["id"], "temperature_c": 12.5, "condition": "rain", "note": "wet"}


async def test_alembic_finds_no_difference(migrated: AsyncConnection) -> None:
    """Alembic finds no difference between the migrated database and the metadata."""

    def differences(sync: Connection) -> object:
        return compare_metadata(MigrationContext.configure(sync), metadata)

    assert await migrated.run_sync(differences) == []


async def test_migrations_create_the_metadata(empty_database: str, connection: AsyncConnection) -> None:
    """Columns, constraints, indexes and options are the same after the migrations and after `create_all`."""

    async def catalogue() -> list[tuple[str, str]]:
        rows = await connection.execute(CATALOGUE)
        return [(kind, definition) for kind, definition in rows if "alembic_version" not in definition]

    await connection.run_sync(metadata.create_all)
    described = await catalogue()
    await connection.run_sync(metadata.drop_all)
    await migrate(empty_database)

    assert await catalogue() == described
    assert {kind for kind, _ in described} == {"column", "constraint", "index", "options"}


async def test_new_place_has_no_observations(migrated: AsyncConnection) -> None:
    """The observation count of a new place is zero."""
    await migrated.execute(insert(places).values(ZURICH))

    assert await migrated.scalar(select(places.c.observation_count)) == 0


async def test_every_condition_can_be_stored(migrated: AsyncConnection) -> None:
    """Each condition is accepted, also without a note."""
    rows = [RAIN | {"condition": condition, "note": None} for condition in CONDITIONS]
    await migrated.execute(insert(places).values(ZURICH))
    await migrated.execute(insert(observations), rows)

    assert set(await migrated.scalars(select(observations.c.condition))) == set(CONDITIONS)


@pytest.mark.parametrize(
    ("wrong", "constraint"),
    [
        ({"place_id": 1}, "fk_observations_place_id"),
        ({"condition": "frogs"}, "ck_observations_condition"),
        ({"temperature_c": float("nan")}, "ck_observations_temperature_c"),
        ({"temperature_c": -273.0}, "ck_observations_temperature_c"),
        ({"note": "x" * (MAX_NOTE_LENGTH + 1)}, "ck_observations_note"),
    ],
    ids=["unknown place", "unknown condition", "no temperature", "impossible temperature", "long note"],
)
async def test_invalid_observation_is_rejected(
    migrated: AsyncConnection, wrong: dict[str, Any], constraint: str
) -> None:
    """A constraint rejects each invalid value."""
    await migrated.execute(insert(places).values(ZURICH))

    with pytest.raises(DBAPIError, match=constraint):
        await migrated.execute(insert(observations).values(RAIN | wrong))
