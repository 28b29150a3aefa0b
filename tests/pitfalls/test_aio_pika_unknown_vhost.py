"""aio-pika: an unknown or forbidden virtual host is reported as a protocol error, not as a connection error."""

import aio_pika
import pytest
from aio_pika.exceptions import AMQPConnectionError, InvalidFrameError

from gateway.devstack.rabbitmq import RabbitMQServer


async def broken(url: str) -> str:
    try:
        connection = await aio_pika.connect_robust(url)
    except AMQPConnectionError as error:
        return f"cannot connect: {error}"
    await connection.close()
    return "connected"


async def fixed(url: str) -> str:
    try:
        connection = await aio_pika.connect_robust(url)
    except AMQPConnectionError as error:
        return f"cannot connect: {error}"
    except InvalidFrameError as error:
        if "Connection.OpenOk" not in str(error):
            raise
        return "cannot connect: the virtual host does not exist, or this user may not use it"
    await connection.close()
    return "connected"


async def test_unknown_vhost_is_no_connection_error(rabbitmq_server: RabbitMQServer) -> None:
    """An `InvalidFrameError` passes the handler of `AMQPConnectionError`."""
    with pytest.raises(
        InvalidFrameError, match=r"Connection\.OpenOk"
    ):  # otherwise fixed upstream: it has a clear error
        await broken(rabbitmq_server.url_of("nowhere"))


async def test_expected_frame_identifies_vhost_error(rabbitmq_server: RabbitMQServer) -> None:
    """The frame that aiormq expected, `Connection.OpenOk`, identifies the failed step."""
    message = "cannot connect: the virtual host does not exist, or this user may not use it"
    assert await fixed(rabbitmq_server.url_of("nowhere")) == message
    assert await fixed(rabbitmq_server.url) == "connected"
