"""The relay: everything in the outbox gets to RabbitMQ, whichever of the two servers goes away, and nothing else is needed."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import uuid4

import pytest
from aio_pika import Message
from aio_pika.abc import AbstractChannel
from sqlalchemy import func, insert, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool

from gateway.devstack.postgresql import PostgreSQL
from gateway.devstack.rabbitmq import RabbitMQ as Server
from gateway.events.channels import open_channel
from gateway.events.topology import EXCHANGE, OBSERVATIONS, declare
from gateway.observations.relay import BATCH_SIZE, OutboxRelay
from gateway.resources.rabbitmq import RabbitMQ
from gateway.schema.tables import outbox
from tests.support.waiting import TIMEOUT, wait_until

RECOVERY_TIMEOUT = 10.0  # from a server's return; the aim is two seconds on an idle machine


async def enqueue(database: AsyncEngine, count: int = 1) -> list[str]:
    """Put so many events into the outbox; return their ids in order."""
    entries = [{"event_id": uuid4(), "type": OBSERVATIONS.routing_key, "body": "{}"} for _ in range(count)]
    async with database.begin() as connection:
        await connection.execute(insert(outbox), entries)
    return [str(entry["event_id"]) for entry in entries]


async def depth(database: AsyncEngine) -> int:
    async with database.connect() as connection:
        return await connection.scalar(select(func.count()).select_from(outbox)) or 0


async def emptied(database: AsyncEngine, *, limit: float = TIMEOUT) -> None:
    async def is_empty() -> bool:
        return await depth(database) == 0

    await wait_until(is_empty, "the outbox is empty", timeout=limit)


async def arrived(rabbitmq: RabbitMQ) -> list[str]:
    """The ids of what is in the queue, in order; it is empty then."""
    channel = await open_channel(rabbitmq.connection, confirms=False)
    queue = await channel.declare_queue(OBSERVATIONS.name, passive=True)
    ids = []
    while (message := await queue.get(no_ack=True, fail=False, timeout=TIMEOUT)) is not None:
        ids.append(str(message.message_id))
    await channel.close()
    return ids


@pytest.fixture
def long_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls to the servers have a minute: a relay that waits for one is later than any load makes it."""
    monkeypatch.setattr("gateway.observations.relay.PUBLISH_TIMEOUT", 60)
    monkeypatch.setattr("gateway.resources.database.COMMAND_TIMEOUT", 60)


@pytest.fixture
async def relay(database: AsyncEngine, rabbitmq: RabbitMQ) -> AsyncIterator[OutboxRelay]:
    """A relay at work."""
    relay = OutboxRelay(database, rabbitmq.connection)
    async with relay.open():
        yield relay


@pytest.fixture
def no_publish_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A healthy broker has as much time as it needs: nothing is published twice on a busy machine."""
    monkeypatch.setattr("gateway.observations.relay.PUBLISH_TIMEOUT", 60)


@pytest.mark.usefixtures("no_publish_timeout")
async def test_what_is_in_the_outbox_arrives_in_order_and_is_gone_then(
    database: AsyncEngine, rabbitmq: RabbitMQ
) -> None:
    ids = await enqueue(database, 2 * BATCH_SIZE + 1)
    async with OutboxRelay(database, rabbitmq.connection).open():
        await emptied(database)

    assert await arrived(rabbitmq) == ids


async def test_woken_it_works_at_once(
    database: AsyncEngine, relay: OutboxRelay, rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.observations.relay.POLL_INTERVAL", 60)
    await enqueue(database)
    relay.notify()
    await emptied(database)  # it may have begun to wait before the patch
    await enqueue(database)
    relay.notify()
    await emptied(database)

    assert len(await arrived(rabbitmq)) == 2


async def test_what_another_process_has_written_is_found_within_a_moment(
    database: AsyncEngine, relay: OutboxRelay, rabbitmq: RabbitMQ
) -> None:
    await emptied(database)
    await enqueue(database)
    await emptied(database, limit=RECOVERY_TIMEOUT)

    assert relay is not None
    assert len(await arrived(rabbitmq)) == 1


@pytest.mark.usefixtures("no_publish_timeout")
async def test_two_share_the_outbox_and_publish_nothing_twice(database: AsyncEngine, rabbitmq: RabbitMQ) -> None:
    """Each waits with its first batch until the other one has a batch, too."""
    ids = await enqueue(database, 10 * BATCH_SIZE)
    first, second = (OutboxRelay(database, rabbitmq.connection) for _ in range(2))
    shares: Counter[OutboxRelay] = Counter()
    both_have_a_batch = asyncio.Event()
    for each in (first, second):
        _count_what_it_publishes(each, shares, both_have_a_batch)
    async with first.open(), second.open():
        await emptied(database)

    assert Counter(await arrived(rabbitmq)) == Counter(ids)
    assert min(shares[first], shares[second]) >= BATCH_SIZE


def _count_what_it_publishes(
    relay: OutboxRelay, shares: "Counter[OutboxRelay]", both_have_a_batch: asyncio.Event
) -> None:
    publish = relay._publisher.publish

    async def counted(*arguments: object, timeout: float) -> None:
        shares[relay] += 1
        if len(shares) == 2:
            both_have_a_batch.set()
        await both_have_a_batch.wait()
        await publish(*arguments, timeout=timeout)  # type: ignore[arg-type]

    relay._publisher.publish = counted  # type: ignore[method-assign, assignment]


async def test_without_rabbitmq_the_outbox_grows_and_empties_once_it_is_back(
    database: AsyncEngine, relay: OutboxRelay, rabbitmq: RabbitMQ, rabbitmq_server: Server
) -> None:
    ids = await enqueue(database)
    await emptied(database)
    await rabbitmq_server.sync()
    rabbitmq_server.kill()
    try:
        for _ in range(3):
            ids += await enqueue(database)
            relay.notify()

        async def says_so() -> bool:
            return str(await relay.check()).startswith("outbox: 3 waiting, trying again: ")

        await wait_until(says_so, "the check says so")
    finally:
        await rabbitmq_server.start()
    await emptied(database, limit=RECOVERY_TIMEOUT)

    async def says_that_all_is_well() -> bool:
        return await relay.check() == "outbox: 0 waiting, dead letters: 0"

    assert set(await arrived(rabbitmq)) == set(ids)
    await wait_until(says_that_all_is_well, "the check says so")


async def test_a_rabbitmq_that_stalls_makes_it_wait_and_nothing_is_lost(
    database: AsyncEngine,
    relay: OutboxRelay,
    rabbitmq: RabbitMQ,
    rabbitmq_server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.observations.relay.PUBLISH_TIMEOUT", 0.3)
    await enqueue(database)
    await emptied(database)
    with rabbitmq_server.suspended():
        ids = await enqueue(database, 3)
        relay.notify()

        async def says_so() -> bool:
            return "trying again" in str(await relay.check())

        await wait_until(says_so, "the check says so")
        assert await depth(database) == 3
    await emptied(database, limit=RECOVERY_TIMEOUT)

    assert set(ids) < set(await arrived(rabbitmq))


async def test_a_rabbitmq_that_comes_back_empty_has_everything_declared_again(
    database: AsyncEngine, relay: OutboxRelay, channel: AbstractChannel, rabbitmq: RabbitMQ
) -> None:
    await enqueue(database)
    await emptied(database)
    await channel.queue_delete(OBSERVATIONS.name)
    await channel.exchange_delete(EXCHANGE)
    ids = await enqueue(database)
    relay.notify()
    await emptied(database)

    assert await arrived(rabbitmq) == ids


async def test_a_database_that_was_killed_is_worked_in_again_once_it_is_back(
    database: AsyncEngine, relay: OutboxRelay, rabbitmq: RabbitMQ, postgresql_server: PostgreSQL
) -> None:
    await enqueue(database)
    await emptied(database)
    postgresql_server.kill()
    try:

        async def noticed() -> bool:
            return relay._in_the_way is not None

        await wait_until(noticed, "it has noticed")
    finally:
        await postgresql_server.start()
    await enqueue(database)
    await emptied(database, limit=RECOVERY_TIMEOUT)

    assert len(await arrived(rabbitmq)) == 2


async def test_one_that_cannot_be_published_keeps_no_other_back(
    database: AsyncEngine, relay: OutboxRelay, rabbitmq: RabbitMQ
) -> None:
    async with database.begin() as connection:
        await connection.execute(insert(outbox), {"event_id": uuid4(), "type": "of.no.queue", "body": "{}"})
    ids = await enqueue(database, 3)
    relay.notify()

    async def one_is_left() -> bool:
        return await depth(database) == 1

    await wait_until(one_is_left, "only that one is left")
    assert sorted(await arrived(rabbitmq)) == sorted(ids)


async def test_the_check_says_how_many_dead_letters_there_are(relay: OutboxRelay, channel: AbstractChannel) -> None:
    await declare(channel)
    queue = await channel.declare_queue(OBSERVATIONS.name, passive=True)
    async with asyncio.timeout(TIMEOUT):
        await channel.default_exchange.publish(Message(b"{}"), OBSERVATIONS.name)
        message = await queue.get(timeout=TIMEOUT)
        assert message is not None
        await message.reject(requeue=False)

    async def says_so() -> bool:
        return await relay.check() == "outbox: 0 waiting, dead letters: 1"

    await wait_until(says_so, "the check says so")


async def test_the_check_counts_no_further_than_it_says(
    database: AsyncEngine, relay: OutboxRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.observations.relay.MAX_COUNTED", 2)
    async with database.connect() as others:  # who has them locked, so that they stay
        await enqueue(database, 3)
        await others.execute(select(outbox.c.id).with_for_update())
        assert str(await relay.check()).startswith("outbox: at least 2 waiting")


async def test_a_mistake_of_ours_ends_it(database: AsyncEngine, rabbitmq: RabbitMQ) -> None:
    async with database.begin() as connection:
        await connection.execute(text("DROP TABLE outbox"))

    with pytest.raises(DBAPIError, match="outbox"):
        async with asyncio.timeout(TIMEOUT), OutboxRelay(database, rabbitmq.connection).open():
            await asyncio.Event().wait()


class TestItsEnd:
    @pytest.mark.usefixtures("no_publish_timeout")
    async def test_waits_for_a_batch_in_flight(
        self, database: AsyncEngine, rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("gateway.observations.relay.DRAIN_TIMEOUT", TIMEOUT)
        ids = await enqueue(database, BATCH_SIZE)
        relay = OutboxRelay(database, rabbitmq.connection)
        publish = relay._publisher.publish
        in_flight = asyncio.Event()

        async def noted(*arguments: object, timeout: float) -> None:
            in_flight.set()
            await publish(*arguments, timeout=timeout)  # type: ignore[arg-type]

        relay._publisher.publish = noted  # type: ignore[method-assign, assignment]
        async with relay.open():
            await asyncio.wait_for(in_flight.wait(), TIMEOUT)
            assert await depth(database) == BATCH_SIZE

        assert await depth(database) == 0
        assert await arrived(rabbitmq) == ids

    @pytest.mark.usefixtures("long_calls")
    @pytest.mark.parametrize("stalls", ["rabbitmq", "postgresql"])
    async def test_is_quick_while_a_server_stalls_and_what_it_had_is_still_there(
        self,
        database: AsyncEngine,
        rabbitmq: RabbitMQ,
        stalls: str,
        rabbitmq_server: Server,
        postgresql_server: PostgreSQL,
    ) -> None:
        async with OutboxRelay(database, rabbitmq.connection).open():
            await enqueue(database)
            await emptied(database)
        ids = await enqueue(database, 3)
        server = rabbitmq_server if stalls == "rabbitmq" else postgresql_server
        with server.suspended():
            async with OutboxRelay(database, rabbitmq.connection).open():
                await wait_until(at_work(database), "it is at work")
                began = time.monotonic()
            assert time.monotonic() - began < 20  # a call to the server takes sixty

        async with OutboxRelay(database, rabbitmq.connection).open():
            await emptied(database)
        assert set(ids) <= set(await arrived(rabbitmq))


def at_work(database: AsyncEngine) -> Callable[[], Awaitable[bool]]:
    """Whether the relay has a connection: nobody else has one in these tests."""

    async def it_is() -> bool:
        pool = database.pool
        assert isinstance(pool, QueuePool)
        return pool.checkedout() > 0

    return it_is
