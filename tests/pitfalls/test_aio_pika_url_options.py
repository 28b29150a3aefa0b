"""aio-pika: an unknown option of the URL is ignored, and an invalid heartbeat disables heartbeats."""

import aio_pika
import aiormq

from gateway.devstack.rabbitmq import RabbitMQServer


async def broken(url: str) -> aio_pika.abc.AbstractRobustConnection:
    return await aio_pika.connect_robust(f"{url}?heartbeat=15s&heartbeats=15")


async def fixed(url: str) -> aio_pika.abc.AbstractRobustConnection:
    return await aio_pika.connect_robust(url, heartbeat=15)


async def test_invalid_heartbeat_is_zero(rabbitmq_server: RabbitMQServer) -> None:
    """The connection has no heartbeats, and no message says so."""
    async with await broken(rabbitmq_server.url) as connection:
        assert heartbeat_of(connection) == 0  # otherwise fixed upstream: it is rejected

    async with await fixed(rabbitmq_server.url) as connection:
        assert heartbeat_of(connection) == 15


def heartbeat_of(connection: aio_pika.abc.AbstractRobustConnection) -> int | None:
    assert connection.transport is not None
    assert isinstance(connection.transport.connection, aiormq.Connection)
    return connection.transport.connection.connection_tune.heartbeat
