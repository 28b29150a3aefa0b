"""The publisher: it raises for messages that are not confirmed, and recovers from lost channels on its own."""

import asyncio
import time
from uuid import UUID, uuid4

import aiormq
import pytest
from aio_pika.abc import AbstractChannel

from gateway.devstack.rabbitmq import RabbitMQServer
from gateway.events.publisher import Publisher, PublishError
from gateway.events.topology import DEAD_LETTERS, EXCHANGE, OBSERVATIONS, VIEWS, Queue, declare
from gateway.resources.rabbitmq import RabbitMQ
from tests.support.waiting import TIMEOUT, wait_until


async def publish(
    publisher: Publisher, event_type: str = OBSERVATIONS.routing_key, *, timeout: float = TIMEOUT
) -> UUID:
    event_id = uuid4()
    await publisher.publish(event_id, event_type, b"{}", timeout=timeout)
    return event_id


async def publish_until_confirmed(publisher: Publisher) -> None:
    async def is_confirmed() -> bool:
        try:
            await publish(publisher)
        except PublishError:
            return False
        return True

    await wait_until(is_confirmed, "a message is confirmed")


def aiormq_connection(rabbitmq: RabbitMQ) -> aiormq.abc.AbstractConnection:
    """Return the connection of the library below aio-pika."""
    transport = rabbitmq.connection.transport
    assert transport is not None
    return transport.connection


def unconfirmed(rabbitmq: RabbitMQ) -> int:
    """Return the number of messages that were sent and not confirmed yet."""
    channels = aiormq_connection(rabbitmq).channels.values()
    return sum(len(channel.confirmations) for channel in channels if isinstance(channel, aiormq.Channel))


async def depth(channel: AbstractChannel, queue: str) -> int | None:
    return (await channel.declare_queue(queue, passive=True)).declaration_result.message_count


async def test_message_properties(rabbitmq: RabbitMQ, channel: AbstractChannel) -> None:
    """A message has the id and the type of its event, and is persistent."""
    event_id = await publish(Publisher(rabbitmq.connection, OBSERVATIONS))

    message = await (await channel.declare_queue(OBSERVATIONS.name, passive=True)).get(timeout=TIMEOUT)
    assert message is not None
    assert (message.message_id, message.type, message.body) == (str(event_id), OBSERVATIONS.routing_key, b"{}")
    assert message.delivery_mode == 2


@pytest.mark.parametrize("queue", [OBSERVATIONS, VIEWS], ids=lambda queue: queue.name)
async def test_queue_for_each_event_type(rabbitmq: RabbitMQ, channel: AbstractChannel, queue: Queue) -> None:
    """An event is routed to the queue of its type, and to no other."""
    await declare(channel)
    await publish(Publisher(rabbitmq.connection, queue), queue.routing_key)

    depths = {each: await depth(channel, each.name) for each in (OBSERVATIONS, VIEWS)}
    assert depths == {OBSERVATIONS: 0, VIEWS: 0} | {queue: 1}


async def test_declaring_twice_changes_nothing(channel: AbstractChannel) -> None:
    """The topology can be declared again."""
    await declare(channel)
    await declare(channel)

    assert [await depth(channel, name) for name in (OBSERVATIONS.name, VIEWS.name, DEAD_LETTERS)] == [0, 0, 0]


async def test_concurrent_publishes_share_a_channel(rabbitmq: RabbitMQ, channel: AbstractChannel) -> None:
    """A hundred concurrent publishes open one channel; the other one is that of the test."""
    publisher = Publisher(rabbitmq.connection, OBSERVATIONS)
    await asyncio.gather(*(publish(publisher) for _ in range(100)))

    assert await depth(channel, OBSERVATIONS.name) == 100
    assert len(aiormq_connection(rabbitmq).channels) == 2


async def test_unroutable_message_raises(rabbitmq: RabbitMQ) -> None:
    """A message that is routed to no queue raises PublishError. The next publish works."""
    publisher = Publisher(rabbitmq.connection, OBSERVATIONS)
    with pytest.raises(PublishError):
        await publish(publisher, "unknown.type")
    await publish(publisher)


async def test_paused_broker_costs_the_timeout(rabbitmq: RabbitMQ, rabbitmq_server: RabbitMQServer) -> None:
    """While the broker does not respond, a publish fails after its timeout. It works again later."""
    publisher = Publisher(rabbitmq.connection, OBSERVATIONS)
    await publish(publisher)
    with rabbitmq_server.suspended():
        started_at = time.monotonic()
        with pytest.raises(PublishError):
            await publish(publisher, timeout=0.3)
        assert time.monotonic() - started_at < 10  # without the timeout it would wait for the broker
    await publish_until_confirmed(publisher)


async def test_unavailable_broker_fails_immediately(rabbitmq: RabbitMQ, rabbitmq_server: RabbitMQServer) -> None:
    """While the connection is lost, a publish fails without waiting for its timeout. It works again later."""
    publisher = Publisher(rabbitmq.connection, OBSERVATIONS)
    await publish(publisher)
    await rabbitmq_server.sync()
    rabbitmq_server.kill()
    try:
        started_at = time.monotonic()
        for _ in range(5):
            with pytest.raises(PublishError):
                await publish(publisher, timeout=TIMEOUT)
        assert time.monotonic() - started_at < TIMEOUT  # none of the five has waited for its timeout
    finally:
        await rabbitmq_server.start()
    await publish_until_confirmed(publisher)


async def test_deleted_topology_is_declared_again(rabbitmq: RabbitMQ, channel: AbstractChannel) -> None:
    """After the queue or the exchange was deleted one publish fails, and the next one declares everything again."""
    publisher = Publisher(rabbitmq.connection, OBSERVATIONS)
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


async def test_lost_heartbeat_is_a_publish_error(rabbitmq: RabbitMQ, rabbitmq_server: RabbitMQServer) -> None:
    """A lost heartbeat raises PublishError, although aio-pika then cancels the pending confirm.

    `tests/pitfalls/test_aio_pika_lost_heartbeat.py` shows the library's behaviour.
    """
    publisher = Publisher(rabbitmq.connection, OBSERVATIONS)
    await publish(publisher)
    with rabbitmq_server.suspended():
        publishing = asyncio.create_task(publish(publisher, timeout=TIMEOUT))
        await wait_until(lambda: unconfirmed(rabbitmq) == 1, "the message waits for its confirm")
        closing = asyncio.create_task(aiormq_connection(rabbitmq).close(asyncio.CancelledError()))
        await asyncio.wait({publishing}, timeout=TIMEOUT)
    await asyncio.wait({closing})

    assert not publishing.cancelled()
    assert isinstance(publishing.exception(), PublishError)


async def test_cancelled_publish_is_cancelled(rabbitmq: RabbitMQ, rabbitmq_server: RabbitMQServer) -> None:
    """The cancellation of a task that publishes stays a cancellation."""
    publisher = Publisher(rabbitmq.connection, OBSERVATIONS)
    await publish(publisher)
    with rabbitmq_server.suspended():
        publishing = asyncio.create_task(publish(publisher, timeout=TIMEOUT))
        await wait_until(lambda: unconfirmed(rabbitmq) == 1, "the message waits for its confirm")
        publishing.cancel()
        await asyncio.wait({publishing}, timeout=TIMEOUT)

    assert publishing.cancelled()
