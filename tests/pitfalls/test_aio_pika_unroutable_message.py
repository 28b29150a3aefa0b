"""aio-pika: a publish succeeds although no queue takes the message, even with publisher confirms."""

import aio_pika
import pytest
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import PublishError
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic


async def broken(connection: AbstractConnection) -> object:
    channel = await connection.channel(publisher_confirms=True)
    return await channel.default_exchange.publish(aio_pika.Message(b"hello"), routing_key="no-such-queue")


async def fixed(connection: AbstractConnection) -> None:
    channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
    await channel.default_exchange.publish(aio_pika.Message(b"hello"), routing_key="no-such-queue")


async def test_unroutable_message_counts_as_published(vhost: str) -> None:
    """`publish` returns normally. Only its return value contains the broker's `Basic.Return`."""
    async with await aio_pika.connect_robust(vhost) as connection:
        returned = await broken(connection)  # if this raises, aio-pika has changed its default

    assert isinstance(returned, DeliveredMessage)
    assert isinstance(returned.delivery, Basic.Return)


async def test_on_return_raises_reports_unroutable(vhost: str) -> None:
    """With `on_return_raises=True` the publish raises `PublishError`."""
    async with await aio_pika.connect_robust(vhost) as connection:
        with pytest.raises(PublishError, match="NO_ROUTE"):
            await fixed(connection)
