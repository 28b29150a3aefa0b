"""The relay: everything in the outbox is published, and the relay recovers from failures of both servers on its own."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from aio_pika import Message
from aio_pika.abc import AbstractChannel
from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool

from gateway.devstack.postgresql import PostgreSQLServer
from gateway.devstack.rabbitmq import RabbitMQServer
from gateway.events.channels import open_channel
from gateway.events.publisher import Publisher
from gateway.events.topology import EXCHANGE, OBSERVATIONS, declare
from gateway.observations.outbox_queries import MAX_ATTEMPTS
from gateway.observations.relay import BATCH_SIZE, OutboxRelay
from gateway.resources.base import DegradedError, Resource
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


async def degraded(entry: Resource[Any]) -> str | None:
    """Return the reason why the health check reports a degraded entry, or None."""
    try:
        await entry.check()
    except DegradedError as error:
        return str(error)
    return None


async def wait_for_degraded(relay: OutboxRelay, expected: str) -> None:
    """Wait until the reason of the health check begins with this text."""

    async def is_reported() -> bool:
        return (await degraded(relay) or "").startswith(expected)

    await wait_until(is_reported, f"the health check reports {expected!r}")


async def wait_for_health(relay: OutboxRelay) -> None:
    async def is_healthy() -> bool:
        return await degraded(relay) is None

    await wait_until(is_healthy, "the health check reports no problem")


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


UNROUTABLE = "of.no.queue"


@pytest.fixture
def short_retry_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries that failed are due again immediately, and the relay looks for them often."""
    monkeypatch.setattr("gateway.observations.relay.RETRY_DELAY", 0)
    monkeypatch.setattr("gateway.observations.relay.POLL_INTERVAL", 0.02)


@pytest.fixture
async def max_message_size(rabbitmq_server: RabbitMQServer) -> AsyncIterator[int]:
    """The size of the largest message that the broker accepts, in bytes."""
    async with rabbitmq_server.max_message_size(1000):
        yield 1000


async def failed_entries(database: AsyncEngine) -> list[tuple[int, bool, str | None]]:
    """Return for each entry: the number of attempts, whether it is parked, and the last error."""
    columns = outbox.c.attempts, outbox.c.parked_at.is_not(None), outbox.c.last_error
    async with database.connect() as connection:
        return [tuple(row) for row in await connection.execute(select(*columns).order_by(outbox.c.id))]


class TestMeasurements:
    async def test_counts(self, database: AsyncEngine, rabbitmq: RabbitMQ) -> None:
        """The health check counts the entries, and measures the age of the oldest one that waits. An empty outbox has no age."""
        relay = OutboxRelay(database, rabbitmq.connection)
        await relay.check()
        empty = relay.counts
        await enqueue(database, 2)
        async with database.begin() as connection:
            an_hour_ago = func.now() - timedelta(hours=1)
            await connection.execute(
                insert(outbox).values(event_id=uuid4(), type="t", body="{}", created_at=an_hour_ago)
            )
        await relay.check()

        assert empty == (0, 0, 0, None)
        assert relay.counts is not None
        assert relay.counts[:3] == (3, 0, 0)
        assert 3600 <= float(relay.counts.oldest_age or 0) < 3700


class TestRejectedEntries:
    """Entries that the broker does not accept. The other entries are published."""

    @pytest.mark.parametrize("count", [1, BATCH_SIZE, 10_000])
    async def test_unroutable_entries_delay_no_other(
        self, database: AsyncEngine, relay: OutboxRelay, rabbitmq: RabbitMQ, count: int
    ) -> None:
        """Entries that are routed to no queue do not delay the entries after them, however many there are."""
        await enqueue(database, count, event_type=UNROUTABLE)
        ids = await enqueue(database, 3)
        enqueued_at = time.monotonic()
        relay.notify()
        await wait_for_depth(database, count)

        assert time.monotonic() - enqueued_at < 10  # one by one, 10,000 of them would take half a minute
        assert set(await take_messages(rabbitmq)) == set(ids)
        await wait_for_degraded(relay, f"outbox: {'at least ' * (count == 10_000)}{count} waiting, ")

    async def test_queue_that_is_bound_later(
        self, database: AsyncEngine, relay: OutboxRelay, channel: AbstractChannel, rabbitmq: RabbitMQ
    ) -> None:
        """Once a queue takes the type, the waiting entries are published without an intervention."""
        ids = await enqueue(database, 3, event_type=UNROUTABLE)
        relay.notify()
        await wait_for_degraded(relay, "outbox: 3 waiting, 3 failing")
        queue = await channel.declare_queue(OBSERVATIONS.name, passive=True)
        await queue.bind(EXCHANGE, UNROUTABLE)
        await wait_for_depth(database, 0)

        assert set(await take_messages(rabbitmq)) == set(ids)
        await wait_for_health(relay)

    @pytest.mark.usefixtures("short_retry_delay")
    async def test_entry_is_parked(self, database: AsyncEngine, rabbitmq: RabbitMQ) -> None:
        """After the maximum of attempts an entry is parked, with the reason. The check reports it."""
        await enqueue(database, event_type=UNROUTABLE)
        relay = OutboxRelay(database, rabbitmq.connection)
        async with relay.open():
            await wait_for_degraded(relay, "outbox: 0 waiting, 1 parked")

        reason = f"no queue takes messages of type {UNROUTABLE!r}"
        assert await failed_entries(database) == [(MAX_ATTEMPTS, True, reason)]

    async def test_oversized_entry_delays_no_other(
        self, database: AsyncEngine, rabbitmq: RabbitMQ, max_message_size: int
    ) -> None:
        """An entry that is too large for the broker counts an attempt. The other entries of its batch are published."""
        async with database.begin() as connection:
            large = {"event_id": uuid4(), "type": OBSERVATIONS.routing_key, "body": "x" * (max_message_size + 1)}
            await connection.execute(insert(outbox), large)
        ids = await enqueue(database, BATCH_SIZE - 1)
        async with OutboxRelay(database, rabbitmq.connection).open():
            await wait_for_depth(database, 1)

        ((attempts, is_parked, reason),) = await failed_entries(database)
        assert attempts > 0
        assert not is_parked
        assert f"larger than configured max size {max_message_size}" in str(reason)
        assert set(await take_messages(rabbitmq)) == set(ids)

    async def test_type_that_is_too_long(self, database: AsyncEngine, relay: OutboxRelay, rabbitmq: RabbitMQ) -> None:
        """A type that does not fit into a message counts an attempt, and does not crash the relay."""
        await enqueue(database, event_type="ü" * 200)
        ids = await enqueue(database)
        relay.notify()
        await wait_for_depth(database, 1)

        assert await take_messages(rabbitmq) == ids
        assert (await failed_entries(database))[0][2] == "the type is longer than 255 bytes"

    async def test_full_queue_parks_nothing(
        self, database: AsyncEngine, channel: AbstractChannel, rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Entries that their queue declines are tried until it takes them, and delay no entry of another queue."""
        monkeypatch.setattr("gateway.observations.relay.RETRY_DELAY", 0.05)
        monkeypatch.setattr("gateway.observations.relay.POLL_INTERVAL", 0.05)
        await declare(channel)
        full = await channel.declare_queue("full", arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
        await full.bind(EXCHANGE, "full")
        await enqueue(database, BATCH_SIZE + 1, event_type="full")
        ids = await enqueue(database)
        relay = OutboxRelay(database, rabbitmq.connection)
        async with relay.open():
            await wait_for_degraded(relay, "outbox: 100 waiting, 100 failing")
            await full.purge()
            await wait_for_degraded(relay, "outbox: 99 waiting, 99 failing")

        assert await take_messages(rabbitmq) == ids
        assert {attempts for attempts, _, _ in await failed_entries(database)} == {1}

    @pytest.mark.usefixtures("short_retry_delay")
    async def test_no_entry_is_starved(
        self, database: AsyncEngine, channel: AbstractChannel, rabbitmq: RabbitMQ
    ) -> None:
        """An entry with two failed attempts is published while more than a batch with one attempt is always due."""
        await declare(channel)
        full = await channel.declare_queue("full", arguments={"x-max-length": 0, "x-overflow": "reject-publish"})
        await full.bind(EXCHANGE, "full")
        await enqueue(database, BATCH_SIZE + 1, event_type="full")
        async with database.begin() as connection:
            await connection.execute(update(outbox).values(attempts=1))
            entry = {"event_id": uuid4(), "type": OBSERVATIONS.routing_key, "body": "{}", "attempts": 2}
            await connection.execute(insert(outbox), entry)
        async with OutboxRelay(database, rabbitmq.connection).open():
            await wait_for_depth(database, BATCH_SIZE + 1)

        assert await take_messages(rabbitmq) == [str(entry["event_id"])]


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
            await wait_for_degraded(relay, "outbox: 3 waiting, trying again: ")
        finally:
            await rabbitmq_server.start()
        await wait_for_depth(database, 0, timeout=RECOVERY_TIMEOUT)

        assert set(await take_messages(rabbitmq)) == set(ids)
        await wait_for_health(relay)
        assert await relay.check() == "outbox: 0 waiting, dead letters: 0"

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
                return "trying again" in (await degraded(relay) or "")

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
        """Dead letters degrade the relay, and the check reports their number."""
        await declare(channel)
        queue = await channel.declare_queue(OBSERVATIONS.name, passive=True)
        async with asyncio.timeout(TIMEOUT):
            await channel.default_exchange.publish(Message(b"{}"), OBSERVATIONS.name)
            message = await queue.get(timeout=TIMEOUT)
            assert message is not None
            await message.reject(requeue=False)

        await wait_for_degraded(relay, "outbox: 0 waiting, dead letters: 1")
        assert relay.dead_letters == 1

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
