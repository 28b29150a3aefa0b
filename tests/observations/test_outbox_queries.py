"""The queries of the relay while several relays run."""

import asyncio
from uuid import uuid4

from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.observations.outbox_queries import count_attempt_of_type
from gateway.schema.tables import outbox
from tests.support.database_locks import is_waiting_for_lock
from tests.support.waiting import wait_until

# The trigger runs when the statement has its snapshot, and before it locks entries.
_LOCK = "SELECT pg_advisory_xact_lock(1)"
_LOCKING_FUNCTION = (
    f"CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM ({_LOCK}); RETURN NULL; END'"
)
_LOCKING_TRIGGER = "CREATE TRIGGER wait BEFORE UPDATE ON outbox EXECUTE FUNCTION wait()"


async def test_attempt_of_a_type_is_counted_once(database: AsyncEngine, owner: AsyncEngine) -> None:
    """An entry that another relay has just tried is not due any more, and counts no second attempt."""
    async with owner.begin() as connection:
        await connection.execute(text(_LOCKING_FUNCTION))
        await connection.execute(text(_LOCKING_TRIGGER))
        await connection.execute(insert(outbox).values(event_id=uuid4(), type="a.type", body="{}"))

    async def count() -> None:
        async with database.begin() as connection:
            await count_attempt_of_type(connection, "a.type", error="no queue", delay=60)

    async with asyncio.TaskGroup() as group, database.begin() as connection:
        await connection.execute(text(_LOCK))
        group.create_task(count())
        await wait_until(lambda: is_waiting_for_lock(database), "the other relay waits")
        await count_attempt_of_type(connection, "a.type", error="no queue", delay=60)
    async with database.connect() as connection:
        assert await connection.scalar(select(outbox.c.attempts)) == 1
