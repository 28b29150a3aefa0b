"""Channels: a consumer that the broker cancels, a close that takes long, and a call that the client library cancels."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
from aio_pika import Channel, Message
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from gateway.devstack.rabbitmq import RabbitMQServer
from gateway.events.channels import (
    CallCancelledError,
    on_consumer_cancelled,
    open_channel,
    opened_channel,
    translate_library_cancellation,
)
from gateway.resources.rabbitmq import CLOSE_TIMEOUT, BrokerConnection, RabbitMQ, RabbitMQConnection
from gateway.settings import RabbitMQSettings
from tests.support.waiting import TIMEOUT, wait_until


async def ignore(_message: AbstractIncomingMessage) -> None:
    pass


async def test_deleted_queue_cancels_its_consumer(rabbitmq: RabbitMQ, channel: AbstractChannel) -> None:
    """The callback is called when the queue of a consumer is deleted.

    It uses an undocumented attribute. If this test fails after an update of aio-pika or aiormq, the attribute has changed.
    """
    cancelled = asyncio.Event()
    consuming = await open_channel(rabbitmq.connection, confirms=False)
    await on_consumer_cancelled(consuming, cancelled.set)
    queue = await consuming.declare_queue("deleted-later")
    await queue.consume(ignore)

    await channel.queue_delete(queue.name)

    await asyncio.wait_for(cancelled.wait(), TIMEOUT)


async def test_deleted_queue_closes_no_channel(rabbitmq: RabbitMQ, channel: AbstractChannel) -> None:
    """aio-pika does not report a deleted queue: neither the channel nor the queue calls its close callbacks.

    If this test fails after an update of aio-pika, `on_consumer_cancelled` can be replaced by a public callback.
    """
    cancelled, closed = asyncio.Event(), asyncio.Event()
    consuming = await open_channel(rabbitmq.connection, confirms=False)
    consuming.close_callbacks.add(lambda *_: closed.set())
    await on_consumer_cancelled(consuming, cancelled.set)
    queue = await consuming.declare_queue("deleted-later")
    queue.close_callbacks.add(lambda *_: closed.set())
    await queue.consume(ignore)

    await channel.queue_delete(queue.name)
    await asyncio.wait_for(cancelled.wait(), TIMEOUT)
    other = await open_channel(rabbitmq.connection, confirms=False)  # a round trip, in which a close could be reported
    await other.close()

    assert not closed.is_set()
    await consuming.close()


def transport_of(connection: BrokerConnection) -> asyncio.Transport:
    (transport,) = connection._transports._transports
    assert isinstance(transport, asyncio.Transport)
    return transport


@contextmanager
def responses_delayed(connection: BrokerConnection) -> Iterator[None]:
    """The broker processes what is sent in the block, and its responses are read after it."""
    transport_of(connection).pause_reading()
    yield
    transport_of(connection).resume_reading()


class TestSlowClose:
    """aiormq sends a cancelled request to close a channel again. The broker then closes the whole connection."""

    @pytest.fixture
    async def connection(self, rabbitmq: RabbitMQ) -> AsyncIterator[BrokerConnection]:
        """A connection that is not lost in the test, and on which no channel is left."""
        underlay = rabbitmq.connection.transport
        assert underlay is not None
        yield rabbitmq.connection
        await wait_until(lambda: not underlay.connection.channels, "the channel is closed")
        for _ in range(10):  # round trips, in which the broker could close the connection
            async with opened_channel(rabbitmq.connection):
                assert rabbitmq.connection.transport is underlay

    async def test_time_limit(self, connection: BrokerConnection) -> None:
        """A close that takes longer than its time limit ends in the background."""
        channel = await open_channel(connection, confirms=False)
        with responses_delayed(connection):
            await connection.close_channel(channel)

    async def test_cancelled_user(self, connection: BrokerConnection) -> None:
        """A close whose caller is cancelled ends in the background."""
        channel = await open_channel(connection, confirms=False)
        with responses_delayed(connection), pytest.raises(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT / 2):
                await connection.close_channel(channel)

    async def test_cancelled_check(self, connection: BrokerConnection, monkeypatch: pytest.MonkeyPatch) -> None:
        """A health check that is cancelled while it closes its channel keeps the connection."""
        resource = RabbitMQConnection(RabbitMQSettings(), "test")
        resource._rabbitmq = RabbitMQ(connection)
        initialize = Channel.initialize

        async def initialize_and_pause(channel: Channel) -> None:
            await initialize(channel)
            transport_of(connection).pause_reading()

        monkeypatch.setattr(Channel, "initialize", initialize_and_pause)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT / 2):
                await resource.check()
        monkeypatch.undo()
        transport_of(connection).resume_reading()


async def test_alarm_leaves_no_channel(
    rabbitmq: RabbitMQ, channel: AbstractChannel, rabbitmq_server: RabbitMQServer
) -> None:
    """A channel that cannot be closed during an alarm is closed after it."""
    transport = rabbitmq.connection.transport
    assert transport is not None
    before = len(transport.connection.channels)
    async with rabbitmq_server.memory_alarm():
        async with opened_channel(rabbitmq.connection):
            publishing = asyncio.create_task(channel.default_exchange.publish(Message(b""), "nowhere", mandatory=False))
            await wait_until(lambda: rabbitmq.connection.blocked is not None, "the connection is blocked")
        assert len(transport.connection.channels) == before + 1
    await publishing

    await wait_until(lambda: len(transport.connection.channels) == before, "the channel is closed")


async def test_library_cancellation_is_translated() -> None:
    """A `CancelledError` outside of a cancelled task becomes an error."""

    async def call_cancelled_by_the_library() -> None:
        with translate_library_cancellation():
            raise asyncio.CancelledError

    # In a task of its own, because the task of the tests counts the cancellations of earlier tests.
    with pytest.raises(CallCancelledError) as error:
        await asyncio.create_task(call_cancelled_by_the_library())

    assert isinstance(error.value.__cause__, asyncio.CancelledError)


async def test_own_cancellation_is_not_translated() -> None:
    """The cancellation of the current task stays a cancellation."""
    started = asyncio.Event()

    async def wait_forever() -> None:
        with translate_library_cancellation():
            started.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(wait_forever())
    await started.wait()
    task.cancel()
    await wait_until(task.done, "the task has ended")

    assert task.cancelled()
