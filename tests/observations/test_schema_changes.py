"""A rolling migration or a lapse of rights ends no process: reads and writes go on, and background tasks retry."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.devstack.postgresql import PostgreSQLServer
from gateway.observations.counting import ConsumedEventsCleanup
from gateway.observations.queries import latest_observations
from gateway.observations.relay import OutboxRelay
from gateway.observations.writer import ObservationWriter, WriteRejectedError
from gateway.read_sessions import ReadSessions
from gateway.resources.rabbitmq import RabbitMQ
from tests.observations.test_counting import store_ids, stored_ids
from tests.observations.test_relay import degraded, enqueue, take_messages, wait_for_depth
from tests.observations.test_writer import PLACE_ID, RAIN, row_counts
from tests.support.reports import insert_observation
from tests.support.waiting import wait_until

SHORTER_TYPE = "ALTER TABLE outbox ALTER type TYPE varchar(200)"
SHORTER_NOTE = "ALTER TABLE observations ALTER note TYPE varchar(2000)"


async def migrate(owner: AsyncEngine, statement: str) -> None:
    """Run a statement of a migration, as another process does."""
    async with owner.begin() as connection:
        await connection.execute(text(statement))


@asynccontextmanager
async def without_right(database: AsyncEngine, server: PostgreSQLServer, right: str) -> AsyncIterator[None]:
    """Take a right on a table from the gateway during the block."""
    assert database.url.database is not None
    async with server.superuser(database.url.database) as superuser:
        await superuser.execute(f"REVOKE {right} FROM gateway")
        try:
            yield
        finally:
            await superuser.execute(f"GRANT {right} TO gateway")


@pytest.fixture
async def relay(database: AsyncEngine, rabbitmq: RabbitMQ) -> AsyncIterator[OutboxRelay]:
    """A running relay, which has published one event."""
    relay = OutboxRelay(database, rabbitmq.connection)
    async with relay.open():
        await publish_one(database, relay)
        await take_messages(rabbitmq)
        yield relay


async def publish_one(database: AsyncEngine, relay: OutboxRelay) -> list[str]:
    """Put an event into the outbox, and wait until the relay has published it. Return its id in a list."""
    ids = await enqueue(database)
    relay.notify()
    await wait_for_depth(database, 0)
    return ids


async def test_relay_after_a_migration(
    database: AsyncEngine, owner: AsyncEngine, relay: OutboxRelay, rabbitmq: RabbitMQ
) -> None:
    """The relay publishes after a column of the outbox was changed, which its prepared statements do not survive."""
    rounds = 5  # so many that it has prepared its statements on each pooled connection
    ids = [id_ for _ in range(rounds) for id_ in await publish_one(database, relay)]
    await migrate(owner, SHORTER_TYPE)
    ids += [id_ for _ in range(rounds) for id_ in await publish_one(database, relay)]

    assert await take_messages(rabbitmq) == ids


async def test_relay_without_a_right(
    database: AsyncEngine, relay: OutboxRelay, rabbitmq: RabbitMQ, postgresql_server: PostgreSQLServer
) -> None:
    """While the relay lacks a right its check is degraded and has the reason. It publishes when the right is back."""
    async with without_right(database, postgresql_server, "UPDATE, DELETE ON outbox"):
        ids = await enqueue(database)

        async def is_reported() -> bool:
            return "permission denied for table outbox" in (await degraded(relay) or "")

        await wait_until(is_reported, "the health check reports the missing right")
    await wait_for_depth(database, 0)

    assert await take_messages(rabbitmq) == ids


async def test_cleanup_without_a_right(database: AsyncEngine, postgresql_server: PostgreSQLServer) -> None:
    """While the cleanup lacks a right its check is degraded and has the reason. It goes on when the right is back."""
    await store_ids(database, 3, days_ago=31)
    async with without_right(database, postgresql_server, "DELETE ON consumed_events"):
        cleanup = ConsumedEventsCleanup(database)
        async with cleanup.open():
            await wait_until(lambda: cleanup.last_error is not None, "the cleanup has failed")
            assert "permission denied for table consumed_events" in (await degraded(cleanup) or "")
            async with postgresql_server.superuser(database.url.database or "") as superuser:
                await superuser.execute("GRANT DELETE ON consumed_events TO gateway")

            async def is_empty() -> bool:
                return await stored_ids(database) == 0

            await wait_until(is_empty, "the expired ids are deleted")
            assert await degraded(cleanup) is None


async def test_write_after_a_migration(database: AsyncEngine, owner: AsyncEngine) -> None:
    """The first write after a change of a column succeeds, and is stored once."""
    writer = ObservationWriter(database, on_stored=lambda: None)
    async with writer.open():
        await writer.write(RAIN, None)
        await migrate(owner, SHORTER_NOTE)
        await writer.write(RAIN, None)

    assert await row_counts(database) == (2, 2)


async def test_read_after_a_migration(database: AsyncEngine, owner: AsyncEngine) -> None:
    """The first read after a change of a column succeeds."""
    sessions = ReadSessions(database)
    async with database.begin() as connection:
        stored, _ = await insert_observation(connection, RAIN, None)
    for change in ("SELECT 1", SHORTER_NOTE):
        await migrate(owner, change)
        async with sessions.open() as session:
            assert await latest_observations(await session.connection(), PLACE_ID) == [stored]


async def test_write_without_a_right(database: AsyncEngine, postgresql_server: PostgreSQLServer) -> None:
    """A write that the database rejects is reported as not stored, with the reason."""
    writer = ObservationWriter(database, on_stored=lambda: None)
    async with writer.open():
        async with without_right(database, postgresql_server, "INSERT ON observations"):
            with pytest.raises(WriteRejectedError, match="lacks a right"):
                await writer.write(RAIN, None)
        await writer.write(RAIN, None)

    assert await row_counts(database) == (1, 1)
