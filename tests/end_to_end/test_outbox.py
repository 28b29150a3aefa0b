"""From the outbox to a count, in two rare cases: a relay that is killed before it deletes, and a broker without its topology."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from signal import SIGKILL

import asyncpg
import httpx
import pytest
from aio_pika.abc import AbstractChannel
from sqlalchemy import func, select

from gateway.devstack.rabbitmq import RIGHTS
from gateway.devstack.stack import Devstack
from gateway.events.topology import DEAD_LETTERS, OBSERVATIONS
from gateway.places.seed import SHIPPED_TABLE, load, read
from gateway.schema.migrate import migrate
from gateway.schema.tables import outbox, places
from gateway.schema.transaction import transaction
from tests.end_to_end.conftest import StartProcess
from tests.end_to_end.test_worker import RAIN, broker, message_count, place, start_worker, wait_for_count
from tests.events.conftest import vhost
from tests.support.waiting import wait_until

__all__ = ["broker", "place", "vhost"]

BERLIN = 2950159
LOCK_ID = 1  # the number of the advisory lock that each deletion takes

LOCK_DELETIONS = f"""
    CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql
        AS 'BEGIN PERFORM pg_advisory_xact_lock({LOCK_ID}); RETURN NULL; END';
    CREATE TRIGGER wait BEFORE DELETE ON outbox FOR EACH STATEMENT EXECUTE FUNCTION wait();
"""


class TestKilledRelay:
    """The relay is killed after the confirm of the broker and before the commit of the deletion."""

    @pytest.fixture
    async def environment(
        self, environment: dict[str, str], vhost: str, empty_database: str, servers: Devstack
    ) -> dict[str, str]:
        """The variables for a new virtual host and a new database with one place, in which each deletion takes a lock."""
        await migrate(empty_database)
        async with transaction(empty_database, application_name="test") as connection:
            await load(connection, [row for row in read(SHIPPED_TABLE) if row[0] == BERLIN])
        async with servers.postgresql.superuser(_name(empty_database)) as connection:
            await connection.execute(LOCK_DELETIONS)
        return environment | {"GATEWAY_RABBITMQ__URL": vhost, "GATEWAY_DATABASE__URL": empty_database}

    async def test_event_published_twice_is_counted_once(
        self, start: StartProcess, servers: Devstack, broker: AbstractChannel, empty_database: str
    ) -> None:
        """The next gateway publishes the event again, and the worker counts it once."""
        async with servers.postgresql.superuser(_name(empty_database)) as connection:
            await connection.execute(f"SELECT pg_advisory_lock({LOCK_ID})")
            first = start("serve", "--port", "0")
            assert (await report(await first.url(), BERLIN)) == 201
            await wait_until(lambda: is_deleting(connection), "the relay has published and waits for the lock")
            assert await message_count(broker, OBSERVATIONS.name) == 1
            first.send_signal(SIGKILL)
            await first.exit_status()
            await connection.execute(f"SELECT pg_advisory_unlock({LOCK_ID})")
            await wait_until(lambda: has_unlocked_entry(connection), "the entry is unlocked")

        await start("serve", "--port", "0").url()
        await wait_for_empty_outbox(empty_database)
        assert await message_count(broker, OBSERVATIONS.name) == 2
        await start_worker(start)

        async def is_empty() -> bool:
            return await message_count(broker, OBSERVATIONS.name) == 0

        await wait_until(is_empty, "both messages are processed")
        async with transaction(empty_database, application_name="test") as counting:
            assert await counting.scalar(select(places.c.observation_count)) == 1
        assert await message_count(broker, DEAD_LETTERS) == 0


def _name(database: str) -> str:
    return database.rpartition("/")[2]


async def report(url: str, place: int, times: int = 1) -> int:
    """Report observations of a place one after the other. Return the status, which is the same for all."""
    async with httpx.AsyncClient(base_url=url) as client:
        responses = [await client.post(f"/v1/places/{place}/observations", json=RAIN) for _ in range(times)]
    (status,) = {response.status_code for response in responses}
    return status


async def is_deleting(connection: "asyncpg.Connection[asyncpg.Record]") -> bool:
    """Return whether a deletion waits for its lock."""
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    return bool(await connection.fetchval(waiting))


async def has_unlocked_entry(connection: "asyncpg.Connection[asyncpg.Record]") -> bool:
    """Return whether there is an entry that is not locked."""
    return bool(await connection.fetchval("SELECT true FROM outbox FOR UPDATE SKIP LOCKED"))


async def wait_for_empty_outbox(database: str) -> None:
    async def is_empty() -> bool:
        async with transaction(database, application_name="test") as connection:
            return await connection.scalar(select(func.count()).select_from(outbox)) == 0

    await wait_until(is_empty, "the outbox is empty")


@asynccontextmanager
async def virtual_host_deleted(servers: Devstack) -> AsyncIterator[None]:
    """Delete the virtual host, with everything in it, and create it again after the block."""
    await servers.rabbitmq.delete_vhost("gateway")
    try:
        yield
    finally:
        await servers.rabbitmq.add_vhost("gateway", rights=RIGHTS)


async def test_deleted_virtual_host_loses_no_count(start: StartProcess, servers: Devstack, place: int) -> None:
    """Observations that are reported during and after the outage are all counted, without a restart of either process."""
    worker_process = await start_worker(start)
    gateway_process = start("serve", "--port", "0")
    url = await gateway_process.url()
    assert await report(url, place) == 201
    await wait_for_count(servers, place, 1)
    async with virtual_host_deleted(servers):
        assert await report(url, place, 3) == 201
    assert await report(url, place, 3) == 201
    await wait_for_count(servers, place, 7)
    await wait_for_empty_outbox(servers.postgresql.url)

    for process in (worker_process, gateway_process):
        assert process.running, process.output
        assert "crashed" not in process.output
