"""From the outbox to a count, at the moments that chance rarely meets: a death in between, and a broker that lost everything."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from signal import SIGKILL

import asyncpg
import httpx
import pytest
from aio_pika.abc import AbstractChannel
from sqlalchemy import func, select

from gateway.devstack.stack import Devstack
from gateway.events.topology import DEAD_LETTERS, OBSERVATIONS
from gateway.places.seed import SHIPPED_TABLE, load, read
from gateway.schema.migrate import migrate
from gateway.schema.tables import outbox, places
from gateway.schema.transaction import transaction
from tests.end_to_end.conftest import Start
from tests.end_to_end.harness import Process
from tests.end_to_end.test_worker import RAIN, broker, message_count, place, start_worker, wait_for_count
from tests.events.conftest import vhost
from tests.support.waiting import wait_until

__all__ = ["broker", "place", "vhost"]

BERLIN = 2950159
HELD = 1
"""The number of the lock that keeps the relay from deleting."""

_DELETING_TAKES_A_LOCK = f"""
    CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql
        AS 'BEGIN PERFORM pg_advisory_xact_lock({HELD}); RETURN NULL; END';
    CREATE TRIGGER wait BEFORE DELETE ON outbox FOR EACH STATEMENT EXECUTE FUNCTION wait();
"""


class TestARelayKilledBeforeItDeletes:
    """In the moment after the broker has confirmed, and before the transaction that deletes is committed."""

    @pytest.fixture
    async def environment(
        self, environment: dict[str, str], vhost: str, empty_database: str, servers: Devstack
    ) -> dict[str, str]:
        """With a virtual host and a database of this test's own: that has one place, and a lock around each deletion."""
        await migrate(empty_database)
        async with transaction(empty_database, application_name="test") as connection:
            await load(connection, [row for row in read(SHIPPED_TABLE) if row[0] == BERLIN])
        async with servers.postgresql.superuser(_name(empty_database)) as connection:
            await connection.execute(_DELETING_TAKES_A_LOCK)
        return environment | {"GATEWAY_RABBITMQ__URL": vhost, "GATEWAY_DATABASE__URL": empty_database}

    async def test_publishes_again_once_another_lives_and_it_is_counted_once(
        self, start: Start, servers: Devstack, broker: AbstractChannel, empty_database: str
    ) -> None:
        async with servers.postgresql.superuser(_name(empty_database)) as connection:
            await connection.execute(f"SELECT pg_advisory_lock({HELD})")
            first = start("serve", "--port", "0")
            assert (await report(await first.url(), BERLIN)) == 201
            await wait_until(lambda: is_deleting(connection), "it has published, and is about to delete")
            assert await message_count(broker, OBSERVATIONS.name) == 1
            first.send_signal(SIGKILL)
            await first.exit_status()
            await connection.execute(f"SELECT pg_advisory_unlock({HELD})")
            await wait_until(lambda: is_free(connection), "what it had is given back")

        await start("serve", "--port", "0").url()
        await emptied(empty_database)
        assert await message_count(broker, OBSERVATIONS.name) == 2, "it was published again"
        await start_worker(start)

        async def worked_in() -> bool:
            return await message_count(broker, OBSERVATIONS.name) == 0

        await wait_until(worked_in, "both are taken")
        async with transaction(empty_database, application_name="look") as looking:
            assert await looking.scalar(select(places.c.observation_count)) == 1
        assert await message_count(broker, DEAD_LETTERS) == 0


def _name(database: str) -> str:
    return database.rpartition("/")[2]


async def report(url: str, place: int, times: int = 1) -> int:
    """Report so many observations of a place; return the status that all were answered with."""
    async with httpx.AsyncClient(base_url=url) as client:
        answers = [await client.post(f"/v1/places/{place}/observations", json=RAIN) for _ in range(times)]
    (status,) = {answer.status_code for answer in answers}
    return status


async def is_deleting(connection: "asyncpg.Connection[asyncpg.Record]") -> bool:
    """Whether somebody waits for the lock that each deletion takes."""
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    return bool(await connection.fetchval(waiting))


async def is_free(connection: "asyncpg.Connection[asyncpg.Record]") -> bool:
    """Whether the entry is there, and nobody has it."""
    return bool(await connection.fetchval("SELECT true FROM outbox FOR UPDATE SKIP LOCKED"))


async def emptied(database: str) -> None:
    async def it_is() -> bool:
        async with transaction(database, application_name="look") as connection:
            return await connection.scalar(select(func.count()).select_from(outbox)) == 0

    await wait_until(it_is, "the outbox is empty")


@asynccontextmanager
async def without_its_virtual_host(servers: Devstack) -> AsyncIterator[None]:
    """The broker is there, and after the block has the virtual host again."""
    await servers.rabbitmq.delete_vhost("gateway")
    try:
        yield
    finally:
        await servers.rabbitmq.add_vhost("gateway")


async def test_a_broker_that_lost_everything_has_all_declared_again_and_what_comes_then_is_counted(
    start: Start, servers: Devstack, place: int
) -> None:
    """While it is away some is written, and more once it is back; nobody starts the gateway or the worker again."""
    working = await start_worker(start)
    serving = start("serve", "--port", "0")
    url = await serving.url()
    assert await report(url, place) == 201
    await wait_for_count(servers, place, 1)
    async with without_its_virtual_host(servers):
        assert await report(url, place, 3) == 201
    assert await report(url, place, 3) == 201
    await wait_for_count(servers, place, 7)
    await emptied(servers.postgresql.url)
    await assert_lives_on(working)
    await assert_lives_on(serving)


async def assert_lives_on(process: Process) -> None:
    assert process.running, process.output
    assert "crashed" not in process.output
