"""The relay: everything in the outbox is published, and the relay recovers from failures of both servers on its own."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from uuid import UUID, uuid4

import pytest
from aio_pika import Message
from aio_pika.abc import AbstractChannel
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool

from gateway.devstack.postgresql import PostgreSQLServer
from gateway.devstack.rabbitmq import RabbitMQServer
from gateway.events.channels import open_channel
from gateway.events.publisher import Publisher
from gateway.events.topology import EXCHANGE, OBSERVATIONS, declare
from gateway.observations.relay import BATCH_SIZE, OutboxRelay
from gateway.resources.base import DegradedError
from gateway.resources.rabbitmq import RabbitMQ
from gateway.schema.tables import outbox
from tests.support.waiting import TIMEOUT, wait_until

RECOVERY_TIMEOUT = 10.0  # after the restart of a server; the target is two seconds on an idle machine


async def enqueue(database: AsyncEngine, count: int = 1, *, event_type: str = OBSERVATIONS.routing_key) -> list[str]:
    """Put `count` events into the outbox. Return their ids in order."""
    entries = [{"event_id": uuid4(), "type": event_type, "body": "{}"} for _ in range(count)]
    async with database.begin() as connection:
        await connection.execute(insert(outbox), entries)
    return [str(entry["event_id"]) for entry in entries]


async def depth(database: AsyncEngine) -> int:
    async with database.connect() as connection:
        return await connection.scalar(select(func.count()).select_from(outbox)) or 0


async def wait_for_depth(database: AsyncEngine, expected: int, *, timeout: float = TIMEOUT) -> None:
    async def is_reached() -> bool:
        return await depth(database) == expected

    await wait_until(is_reached, f"the outbox has {expected} entries", timeout=timeout)


async def degraded_check(relay: OutboxRelay) -> str:
    """Return the error of the health check if the relay works only in part, or an empty string."""
    try:
        await relay.check()
    except DegradedError as error:
        return str(error)
    return ""


async def wait_for_check(relay: OutboxRelay, expected: str) -> None:
    """Wait for a result of the health check without an error."""

    async def is_reported() -> bool:
        with suppress(DegradedError):
            return await relay.check() == expected
        return False

    await wait_until(is_reported, f"the health check reports {expected!r}")


async def take_messages(rabbitmq: RabbitMQ) -> list[str]:
    """Empty the queue. Return the ids of its messages in order."""
    channel = await open_channel(rabbitmq.connection, confirms=False)
    queue = await channel.declare_queue(OBSERVATIONS.name, passive=True)
    ids = []
    while (message := await queue.get(no_ack=True, fail=False, timeout=TIMEOUT)) is not None:
        ids.append(str(message.message_id))
    await channel.close()
    return ids


@pytest.fixture
async def relay(database: AsyncEngine, rabbitmq: RabbitMQ) -> AsyncIterator[OutboxRelay]:
    """A running relay."""
    relay = OutboxRelay(database, rabbitmq.connection)
    async with relay.open():
        yield relay


@pytest.fixture
def long_publish_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A publish timeout that a healthy broker never exceeds, so that a busy machine publishes nothing twice."""
    monkeypatch.setattr("gateway.observations.relay.PUBLISH_TIMEOUT", 60)


@pytest.fixture
def long_call_timeouts(long_publish_timeout: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Timeouts of a minute for both servers: a stop that waits for one of them is clearly too slow."""
    del long_publish_timeout
    monkeypatch.setattr("gateway.resources.database.COMMAND_TIMEOUT", 60)


class TestPublishing:
    @pytest.mark.usefixtures("long_publish_timeout")
    async def test_entries_are_published_in_order(self, database: AsyncEngine, rabbitmq: RabbitMQ) -> None:
        """All entries are published in their order, and deleted from the outbox."""
        ids = await enqueue(database, 2 * BATCH_SIZE + 1)
        async with OutboxRelay(database, rabbitmq.connection).open():
            await wait_for_depth(database, 0)

        assert await take_messages(rabbitmq) == ids

    async def test_notify_publishes_immediately(
        self, database: AsyncEngine, relay: OutboxRelay, rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After `notify()` an entry is published without waiting for the poll interval."""
        monkeypatch.setattr("gateway.observations.relay.POLL_INTERVAL", 60)
        await enqueue(database)
        relay.notify()
        await wait_for_depth(database, 0)  # the first wait may have begun with the old interval
        await enqueue(database)
        relay.notify()
        await wait_for_depth(database, 0)

        assert len(await take_messages(rabbitmq)) == 2

    async def test_entries_of_other_processes_are_found(
        self, database: AsyncEngine, relay: OutboxRelay, rabbitmq: RabbitMQ
    ) -> None:
        """An entry without a call of `notify()` is published after the poll interval."""
        del relay  # it runs in the background
        await wait_for_depth(database, 0)
        await enqueue(database)
        await wait_for_depth(database, 0, timeout=RECOVERY_TIMEOUT)

        assert len(await take_messages(rabbitmq)) == 1

    @pytest.mark.usefixtures("long_publish_timeout")
    async def test_two_relays_publish_nothing_twice(
        self, database: AsyncEngine, rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two relays share the entries, and each entry is published once. Neither publishes before both have a batch."""
        published: Counter[Publisher] = Counter()
        both_have_a_batch = asyncio.Event()

        class WaitingPublisher(Publisher):
            async def publish(self, event_id: UUID, event_type: str, body: bytes, *, timeout: float) -> None:
                published[self] += 1
                if len(published) == 2:
                    both_have_a_batch.set()
                await both_have_a_batch.wait()
                await super().publish(event_id, event_type, body, timeout=timeout)

        monkeypatch.setattr("gateway.observations.relay.Publisher", WaitingPublisher)
        ids = await enqueue(database, 10 * BATCH_SIZE)
        first, second = (OutboxRelay(database, rabbitmq.connection) for _ in range(2))
        async with first.open(), second.open():
            await wait_for_depth(database, 0)

        assert Counter(await take_messages(rabbitmq)) == Counter(ids)
        assert min(published.values()) >= BATCH_SIZE

    async def test_unroutable_entry_delays_no_other(
        self, database: AsyncEngine, relay: OutboxRelay, rabbitmq: RabbitMQ
    ) -> None:
        """An entry that is routed to no queue stays in the outbox. The other entries of its batch are published."""
        await enqueue(database, event_type="of.no.queue")
        ids = await enqueue(database, 3)
        relay.notify()
        await wait_for_depth(database, 1)

        assert sorted(await take_messages(rabbitmq)) == sorted(ids)

    async def test_bug_crashes_the_relay(
        self, database: AsyncEngine, rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An error that no server reports crashes the relay."""

        class BrokenPublisher(Publisher):
            async def publish(self, *_: object, **__: object) -> None:
                raise TypeError("a bug")

        monkeypatch.setattr("gateway.observations.relay.Publisher", BrokenPublisher)
        await enqueue(database)

        with pytest.raises(TypeError, match="a bug"):
            async with asyncio.timeout(TIMEOUT), OutboxRelay(database, rabbitmq.connection).open():
                await asyncio.Event().wait()


class TestRecovery:
    async def test_unavailable_broker(
        self, database: AsyncEngine, relay: OutboxRelay, rabbitmq: RabbitMQ, rabbitmq_server: RabbitMQServer
    ) -> None:
        """While RabbitMQ is unavailable the outbox grows, which the check reports. After the restart it is emptied."""
        ids = await enqueue(database)
        await wait_for_depth(database, 0)
        await rabbitmq_server.sync()
        rabbitmq_server.kill()
        try:
            for _ in range(3):
                ids += await enqueue(database)
                relay.notify()

            async def is_reported() -> bool:
                return (await degraded_check(relay)).startswith("outbox: 3 waiting, trying again: ")

            await wait_until(is_reported, "the health check reports the error")
        finally:
            await rabbitmq_server.start()
        await wait_for_depth(database, 0, timeout=RECOVERY_TIMEOUT)

        assert set(await take_messages(rabbitmq)) == set(ids)
        await wait_for_check(relay, "outbox: 0 waiting, dead letters: 0")

    async def test_paused_broker(
        self,
        database: AsyncEngine,
        relay: OutboxRelay,
        rabbitmq: RabbitMQ,
        rabbitmq_server: RabbitMQServer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """While RabbitMQ does not respond the entries stay in the outbox. Later they are published."""
        monkeypatch.setattr("gateway.observations.relay.PUBLISH_TIMEOUT", 0.3)
        await enqueue(database)
        await wait_for_depth(database, 0)
        with rabbitmq_server.suspended():
            ids = await enqueue(database, 3)
            relay.notify()

            async def is_reported() -> bool:
                return "trying again" in await degraded_check(relay)

            await wait_until(is_reported, "the health check reports the error")
            assert await depth(database) == 3
        await wait_for_depth(database, 0, timeout=RECOVERY_TIMEOUT)

        assert set(ids) < set(await take_messages(rabbitmq))

    async def test_deleted_topology(
        self, database: AsyncEngine, relay: OutboxRelay, channel: AbstractChannel, rabbitmq: RabbitMQ
    ) -> None:
        """A queue and an exchange that were deleted are declared again, and the next entry is published."""
        await enqueue(database)
        await wait_for_depth(database, 0)
        await channel.queue_delete(OBSERVATIONS.name)
        await channel.exchange_delete(EXCHANGE)
        ids = await enqueue(database)
        relay.notify()
        await wait_for_depth(database, 0)

        assert await take_messages(rabbitmq) == ids

    async def test_killed_database(
        self, database: AsyncEngine, relay: OutboxRelay, rabbitmq: RabbitMQ, postgresql_server: PostgreSQLServer
    ) -> None:
        """After the database was killed and restarted, the relay publishes new entries."""
        await enqueue(database)
        await wait_for_depth(database, 0)
        postgresql_server.kill()
        try:
            await wait_until(lambda: relay.last_error is not None, "the relay has noticed it")
        finally:
            await postgresql_server.start()
        await enqueue(database)
        await wait_for_depth(database, 0, timeout=RECOVERY_TIMEOUT)

        assert len(await take_messages(rabbitmq)) == 2


class TestHealthCheck:
    async def test_reports_the_dead_letters(self, relay: OutboxRelay, channel: AbstractChannel) -> None:
        """The check reports the number of dead letters."""
        await declare(channel)
        queue = await channel.declare_queue(OBSERVATIONS.name, passive=True)
        async with asyncio.timeout(TIMEOUT):
            await channel.default_exchange.publish(Message(b"{}"), OBSERVATIONS.name)
            message = await queue.get(timeout=TIMEOUT)
            assert message is not None
            await message.reject(requeue=False)

        await wait_for_check(relay, "outbox: 0 waiting, dead letters: 1")

    async def test_counts_up_to_a_maximum(
        self, database: AsyncEngine, relay: OutboxRelay, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The check counts up to a maximum of entries, and then reports "at least"."""
        monkeypatch.setattr("gateway.observations.relay.MAX_COUNTED", 2)
        async with database.connect() as connection:
            await enqueue(database, 3)
            await connection.execute(select(outbox.c.id).with_for_update())  # locked, so that they stay
            assert str(await relay.check()).startswith("outbox: at least 2 waiting")


class TestStop:
    @pytest.mark.usefixtures("long_publish_timeout")
    async def test_batch_in_flight_finishes(
        self, database: AsyncEngine, rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A batch that ends within the drain timeout is published and deleted."""
        monkeypatch.setattr("gateway.observations.relay.DRAIN_TIMEOUT", TIMEOUT)
        publishing = asyncio.Event()

        class ObservedPublisher(Publisher):
            async def publish(self, event_id: UUID, event_type: str, body: bytes, *, timeout: float) -> None:
                publishing.set()
                await super().publish(event_id, event_type, body, timeout=timeout)

        monkeypatch.setattr("gateway.observations.relay.Publisher", ObservedPublisher)
        ids = await enqueue(database, BATCH_SIZE)
        async with OutboxRelay(database, rabbitmq.connection).open():
            await asyncio.wait_for(publishing.wait(), TIMEOUT)
            assert await depth(database) == BATCH_SIZE

        assert await depth(database) == 0
        assert await take_messages(rabbitmq) == ids

    @pytest.mark.usefixtures("long_call_timeouts")
    @pytest.mark.parametrize("paused", ["rabbitmq", "postgresql"])
    async def test_paused_server_delays_no_stop(
        self,
        database: AsyncEngine,
        rabbitmq: RabbitMQ,
        paused: str,
        rabbitmq_server: RabbitMQServer,
        postgresql_server: PostgreSQLServer,
    ) -> None:
        """A stop does not wait for a server that does not respond. The batch in flight is published later."""
        async with OutboxRelay(database, rabbitmq.connection).open():
            await enqueue(database)
            await wait_for_depth(database, 0)
        ids = await enqueue(database, 3)
        server = rabbitmq_server if paused == "rabbitmq" else postgresql_server
        with server.suspended():
            async with OutboxRelay(database, rabbitmq.connection).open():
                await wait_until(lambda: checked_out(database) > 0, "the relay uses a connection")
                stopped_at = time.monotonic()
            assert time.monotonic() - stopped_at < 20  # a call to the server has sixty seconds

        async with OutboxRelay(database, rabbitmq.connection).open():
            await wait_for_depth(database, 0)
        assert set(ids) <= set(await take_messages(rabbitmq))


def checked_out(database: AsyncEngine) -> int:
    """Return the number of connections in use. In these tests only the relay uses one."""
    pool = database.pool
    assert isinstance(pool, QueuePool)
    return pool.checkedout()
