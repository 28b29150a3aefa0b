"""aio-pika: a publish that an alarm of the broker blocks hangs, and no public attribute has the reason."""

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel

from gateway.devstack.rabbitmq import RabbitMQServer
from gateway.resources.broker_transport import BrokerTransports
from gateway.resources.rabbitmq import BrokerConnection
from tests.support.waiting import wait_until


async def broken(channel: AbstractChannel) -> None:
    await channel.default_exchange.publish(aio_pika.Message(b"hello"), routing_key="greetings", timeout=0.3)


async def fixed(connection: BrokerConnection, channel: AbstractChannel) -> None:
    try:
        await channel.default_exchange.publish(aio_pika.Message(b"hello"), routing_key="greetings", timeout=0.3)
    except TimeoutError as error:
        if connection.blocked is None:
            raise
        raise ConnectionError(f"blocked by an alarm of the broker: {connection.blocked}") from error


async def test_blocked_publish(rabbitmq_server: RabbitMQServer, vhost: str) -> None:
    """The publish times out without a reason; a transport that reads the frames has it until the alarm is over."""
    async with BrokerConnection(vhost, BrokerTransports(), name="pitfall", heartbeat=15) as connection:
        await connection.connect()
        channel = await connection.channel()
        async with rabbitmq_server.memory_alarm():
            with pytest.raises(TimeoutError) as error:  # otherwise fixed upstream: it has a clear error
                await broken(channel)
            assert str(error.value) == ""
            with pytest.raises(ConnectionError, match="blocked by an alarm of the broker: low on memory"):
                await fixed(connection, channel)

        await wait_until(lambda: connection.blocked is None, "the broker reads again")
