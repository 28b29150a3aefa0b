"""aio-pika: publishing what no queue takes succeeds, confirms or not."""

import aio_pika
import pytest
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import PublishError
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic

from gateway.devstack.rabbitmq import RabbitMQ


async def naive(connection: AbstractConnection) -> object:
    channel = await connection.channel(publisher_confirms=True)
    return await channel.default_exchange.publish(aio_pika.Message(b"hello"), routing_key="nobody")


async def cure(connection: AbstractConnection) -> None:
    channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
    await channel.default_exchange.publish(aio_pika.Message(b"hello"), routing_key="nobody")


async def test_a_message_for_nobody_counts_as_sent(rabbitmq_server: RabbitMQ) -> None:
    async with await aio_pika.connect_robust(rabbitmq_server.url) as connection:
        returned = await naive(connection)  # if this raises, aio-pika's default has changed

    assert isinstance(returned, DeliveredMessage)
    assert isinstance(returned.delivery, Basic.Return)


async def test_a_channel_may_raise_for_it(rabbitmq_server: RabbitMQ) -> None:
    async with await aio_pika.connect_robust(rabbitmq_server.url) as connection:
        with pytest.raises(PublishError, match="NO_ROUTE"):
            await cure(connection)
