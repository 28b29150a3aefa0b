"""aio-pika: a connection that the broker rejects is reported as a protocol error, without the broker's reason."""

import secrets

import aio_pika
import pytest
from aio_pika.exceptions import AMQPConnectionError, InvalidFrameError

from gateway.devstack.rabbitmq import RabbitMQServer
from gateway.resources.broker_transport import BrokerTransports
from gateway.resources.rabbitmq import BrokerConnection


async def broken(url: str) -> str:
    try:
        connection = await aio_pika.connect_robust(url)
    except AMQPConnectionError as error:
        return f"cannot connect: {error}"
    await connection.close()
    return "connected"


async def fixed(url: str) -> str:
    async with BrokerConnection(url, BrokerTransports(), name="pitfall", heartbeat=15) as connection:
        try:
            await connection.connect()
        except (AMQPConnectionError, InvalidFrameError):
            return f"cannot connect: {connection.last_error}"
    return "connected"


async def test_unknown_vhost_is_no_connection_error(rabbitmq_server: RabbitMQServer) -> None:
    """An `InvalidFrameError` passes the handler of `AMQPConnectionError`, and has no reason."""
    with pytest.raises(InvalidFrameError, match=r"Connection\.OpenOk") as error:  # otherwise fixed upstream
        await broken(rabbitmq_server.url_of("nowhere"))

    assert "not found" not in str(error.value)


async def test_limit_is_reported_in_the_same_way(rabbitmq_server: RabbitMQServer) -> None:
    """The connection limit of a virtual host, which is transient, raises the same error; the transport has the reasons."""
    name = f"limited-{secrets.token_hex(4)}"
    url = await rabbitmq_server.add_vhost(name)
    await rabbitmq_server.limit_connections(name, 0)
    try:
        with pytest.raises(InvalidFrameError, match=r"Connection\.OpenOk"):
            await broken(url)
        assert (await fixed(url)).endswith("connection limit (0) is reached")
    finally:
        await rabbitmq_server.delete_vhost(name)


async def test_transport_has_the_reason(rabbitmq_server: RabbitMQServer) -> None:
    """A transport that reads the frames has the text of the broker."""
    nowhere = rabbitmq_server.url_of("nowhere")
    assert await fixed(nowhere) == "cannot connect: NOT_ALLOWED - vhost nowhere not found"
    assert await fixed(rabbitmq_server.url) == "connected"
