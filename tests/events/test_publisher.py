"""Publishing: what was not confirmed is told apart from what was, and the publisher finds its way back by itself."""

import asyncio
import time
from uuid import UUID, uuid4

import aiormq
import pytest
from aio_pika.abc import AbstractChannel

from gateway.devstack.rabbitmq import RabbitMQ as Server
from gateway.events.publisher import Publisher, PublishError
from gateway.events.topology import DEAD_LETTERS, EXCHANGE, OBSERVATIONS, VIEWS, Queue, declare
from gateway.resources.rabbitmq import RabbitMQ
from tests.support.waiting import TIMEOUT, wait_until


async def publish(publisher: Publisher, kind: str = OBSERVATIONS.routing_key, timeout: float = TIMEOUT) -> UUID:
    event_id = uuid4()
    await publisher.publish(event_id, kind, b"{}", timeout=timeout)
    return event_id


async def publish_again(publisher: Publisher) -> None:
    """Publish until it is confirmed."""

    async def published() -> bool:
        try:
            await publish(publisher)
        except PublishError:
            return False
        return True

    await wait_until(published, "it is published again")


def unconfirmed(rabbitmq: RabbitMQ) -> int:
    """How many messages were sent and have no confirmation yet."""
    transport = rabbitmq.connection.transport
    assert transport is not None
    channels = transport.connection.channels.values()
    return sum(len(channel.confirmations) for channel in channels if isinstance(channel, aiormq.Channel))


async def depth(channel: AbstractChannel, queue: str) -> int | None:
    return (await channel.declare_queue(queue, passive=True)).declaration_result.message_count


async def test_a_message_arrives_with_the_id_of_its_event_and_survives_the_broker(
    rabbitmq: RabbitMQ, channel: AbstractChannel
) -> None:
    event_id = await publish(Publisher(rabbitmq.connection))

    message = await (await channel.declare_queue(OBSERVATIONS.name, passive=True)).get(timeout=TIMEOUT)
    assert message is not None
    assert (message.message_id, message.type, message.body) == (str(event_id), OBSERVATIONS.routing_key, b"{}")
    assert message.delivery_mode == 2


@pytest.mark.parametrize("queue", [OBSERVATIONS, VIEWS], ids=lambda queue: queue.name)
async def test_each_kind_of_event_has_a_queue_of_its_own(
    rabbitmq: RabbitMQ, channel: AbstractChannel, queue: Queue
) -> None:
    await publish(Publisher(rabbitmq.connection), queue.routing_key)

    depths = {each: await depth(channel, each.name) for each in (OBSERVATIONS, VIEWS)}
    assert depths == {OBSERVATIONS: 0, VIEWS: 0} | {queue: 1}


async def test_declaring_again_changes_nothing(channel: AbstractChannel) -> None:
    await declare(channel)
    await declare(channel)

    assert [await depth(channel, name) for name in (OBSERVATIONS.name, VIEWS.name, DEAD_LETTERS)] == [0, 0, 0]


async def test_many_at_once_share_one_channel(rabbitmq: RabbitMQ, channel: AbstractChannel) -> None:
    publisher = Publisher(rabbitmq.connection)
    await asyncio.gather(*(publish(publisher) for _ in range(100)))

    assert await depth(channel, OBSERVATIONS.name) == 100
    assert len(rabbitmq.connection.transport.connection.channels) == 3  # type: ignore[union-attr]


async def test_what_no_queue_takes_is_not_published(rabbitmq: RabbitMQ) -> None:
    publisher = Publisher(rabbitmq.connection)
    with pytest.raises(PublishError):
        await publish(publisher, "nothing.known")
    await publish(publisher)


async def test_a_broker_that_stalls_costs_the_deadline_and_no_more(rabbitmq: RabbitMQ, rabbitmq_server: Server) -> None:
    publisher = Publisher(rabbitmq.connection)
    await publish(publisher)
    with rabbitmq_server.suspended():
        began = time.monotonic()
        with pytest.raises(PublishError):
            await publish(publisher, timeout=0.3)
        assert time.monotonic() - began < 10  # without the timeout it would wait for the broker
    await publish_again(publisher)


async def test_a_broker_that_is_away_is_known_at_once(rabbitmq: RabbitMQ, rabbitmq_server: Server) -> None:
    publisher = Publisher(rabbitmq.connection)
    await publish(publisher)
    rabbitmq_server.kill()
    try:
        began = time.monotonic()
        for _ in range(5):
            with pytest.raises(PublishError):
                await publish(publisher, timeout=TIMEOUT)
        assert time.monotonic() - began < TIMEOUT  # none of the five has waited for its timeout
    finally:
        await rabbitmq_server.start()
    await publish_again(publisher)


async def test_what_was_deleted_meanwhile_is_declared_again(rabbitmq: RabbitMQ, channel: AbstractChannel) -> None:
    publisher = Publisher(rabbitmq.connection)
    await publish(publisher)
    await channel.queue_delete(OBSERVATIONS.name)
    with pytest.raises(PublishError):
        await publish(publisher)
    await publish(publisher)
    await channel.exchange_delete(EXCHANGE)
    with pytest.raises(PublishError):
        await publish(publisher)
    await publish(publisher)

    assert await depth(channel, OBSERVATIONS.name) == 2


async def test_a_lost_heartbeat_is_no_cancellation(rabbitmq: RabbitMQ, rabbitmq_server: Server) -> None:
    """aio-pika cancels what waits for a confirmation then: tests/pitfalls/test_aio_pika_lost_heartbeat.py."""
    publisher = Publisher(rabbitmq.connection)
    await publish(publisher)
    transport = rabbitmq.connection.transport
    assert transport is not None
    with rabbitmq_server.suspended():
        publishing = asyncio.create_task(publish(publisher, timeout=TIMEOUT))
        await wait_until(lambda: unconfirmed(rabbitmq) == 1, "the message waits for its confirmation")
        closing = asyncio.create_task(transport.connection.close(asyncio.CancelledError()))
        await asyncio.wait({publishing}, timeout=TIMEOUT)
    await asyncio.wait({closing})

    assert not publishing.cancelled()
    assert isinstance(publishing.exception(), PublishError)


async def test_a_true_cancellation_passes(rabbitmq: RabbitMQ, rabbitmq_server: Server) -> None:
    publisher = Publisher(rabbitmq.connection)
    await publish(publisher)
    with rabbitmq_server.suspended():
        publishing = asyncio.create_task(publish(publisher, timeout=TIMEOUT))
        await wait_until(lambda: unconfirmed(rabbitmq) == 1, "the message waits for its confirmation")
        publishing.cancel()
        await asyncio.wait({publishing}, timeout=TIMEOUT)

    assert publishing.cancelled()
