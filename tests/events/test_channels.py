"""Channels: a consumer that the broker cancels, and a call that the client library cancels."""

import asyncio

import pytest
from aio_pika import Message
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from gateway.devstack.rabbitmq import RabbitMQServer
from gateway.events.channels import (
    CallCancelledError,
    on_consumer_cancelled,
    open_channel,
    opened_channel,
    translate_library_cancellation,
)
from gateway.resources.rabbitmq import RabbitMQ
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


async def test_alarm_leaves_no_channel(
    rabbitmq: RabbitMQ, channel: AbstractChannel, rabbitmq_server: RabbitMQServer
) -> None:
    """A channel that cannot be closed during an alarm is closed by the next user of one."""
    transport = rabbitmq.connection.transport
    assert transport is not None
    before = len(transport.connection.channels)
    async with rabbitmq_server.memory_alarm():
        async with opened_channel(rabbitmq.connection):
            publishing = asyncio.create_task(channel.default_exchange.publish(Message(b""), "nowhere", mandatory=False))
            await wait_until(lambda: rabbitmq.connection.blocked is not None, "the connection is blocked")
        assert len(transport.connection.channels) == before + 1
    await publishing
    await wait_until(lambda: rabbitmq.connection.blocked is None, "the connection is not blocked any longer")
    async with opened_channel(rabbitmq.connection):
        pass

    assert len(transport.connection.channels) == before


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
