"""Load the places that the package ships: `gateway seed`."""

import csv
import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Column, MetaData, Table, text, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.places.folding import fold
from gateway.schema import DEFAULT_LOCK_WAIT
from gateway.schema.driver import asyncpg_connection
from gateway.schema.lock_waits import LIMIT_LOCK_WAITS, LockWaits, Reporter, take_advisory_lock
from gateway.schema.revision import SchemaMismatchError, current_revision, describe_mismatch
from gateway.schema.tables import places
from gateway.schema.transaction import transaction

SHIPPED_TABLE = Path(__file__).parents[1] / "assets" / "places.tsv.gz"

# The worker updates `observation_count`.
_SEEDED_COLUMNS = [column for column in places.c if column is not places.c.observation_count]
_SEEDED_NAMES = [column.name for column in _SEEDED_COLUMNS]
_incoming = Table("incoming", MetaData(), *(Column(column.name, column.type) for column in _SEEDED_COLUMNS))

_LOCK = 4711002  # an arbitrary number that no other lock of the gateway uses
_ANALYZE = text("ANALYZE places")


@dataclass(frozen=True, slots=True)
class SeedResult:
    """The numbers of places that were inserted, updated, and unchanged."""

    inserted: int
    updated: int
    unchanged: int

    def __str__(self) -> str:
        return f"{self.inserted} places inserted, {self.updated} updated, {self.unchanged} unchanged"


async def seed(
    url: str,
    *,
    application_name: str = "gateway seed",
    lock_wait: float = DEFAULT_LOCK_WAIT,
    report: Reporter = lambda _: None,
) -> SeedResult:
    """Load the shipped table into the database at `url`, in one transaction.

    It can be called repeatedly and concurrently. Only places that differ are written, so that a worker can count
    observations meanwhile. `observation_count` and places that the shipped table does not have stay as they are.

    Args:
        url: of the database, with the scheme `postgresql+asyncpg`.
        application_name: the name of the connections in `pg_stat_activity`.
        lock_wait: seconds to wait for the locks of other sessions.
        report: called with a line about the sessions that hold them.

    Raises:
        LockWaitError: other sessions held the locks for too long.
        SchemaMismatchError: the database is not at the revision that this version needs.
        OSError, sqlalchemy.exc.DBAPIError: the server cannot be reached, or reports an error.
    """
    waits = LockWaits(url, application_name=application_name, timeout=lock_wait, report=report)
    return await waits.retry("the seed", partial(_load_shipped_table, url, application_name))


async def _load_shipped_table(url: str, application_name: str) -> SeedResult:
    async with transaction(url, application_name=application_name) as connection:
        if problem := describe_mismatch(await current_revision(connection)):
            raise SchemaMismatchError(problem)
        await connection.execute(LIMIT_LOCK_WAITS)
        await take_advisory_lock(connection, _LOCK)
        result = await load(connection, list(read(SHIPPED_TABLE)))
        await connection.execute(_ANALYZE)  # statistics for the first searches after the first seed
    return result


def read(table: Path) -> Iterator[tuple[Any, ...]]:
    """Yield the places of a compressed table as rows for `load`. `assets/places.ATTRIBUTION.md` describes the columns."""
    with gzip.open(table, mode="rt", encoding="utf-8", newline="\n") as lines:
        for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
            yield (
                int(row["id"]),
                row["name"],
                row["ascii_name"],
                row["country_code"],
                row["admin1_code"],
                float(row["latitude"]),
                float(row["longitude"]),
                int(row["population"]),
                row["timezone"],
                fold(row["name"]),
                fold(row["ascii_name"]),
            )


async def load(connection: AsyncConnection, rows: list[tuple[Any, ...]]) -> SeedResult:
    """Insert new places and update different ones, in the transaction of `connection`."""
    await connection.execute(text("CREATE TEMPORARY TABLE incoming ON COMMIT DROP AS TABLE places WITH NO DATA"))
    driver_connection = await asyncpg_connection(connection)
    await driver_connection.copy_records_to_table("incoming", records=rows, columns=_SEEDED_NAMES)
    updated = await connection.execute(
        update(places)
        .values({name: _incoming.c[name] for name in _SEEDED_NAMES})
        .where(
            places.c.id == _incoming.c.id,
            tuple_(*_SEEDED_COLUMNS).is_distinct_from(tuple_(*_incoming.c)),
        )
    )
    inserted = await connection.execute(
        insert(places)
        .from_select(_SEEDED_NAMES, _incoming.select())
        .on_conflict_do_nothing(index_elements=[places.c.id])
    )
    return SeedResult(inserted.rowcount, updated.rowcount, len(rows) - inserted.rowcount - updated.rowcount)
