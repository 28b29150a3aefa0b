"""aio-pika: a virtual host that does not exist, or is not for us, looks like a broken protocol."""

import aio_pika
import pytest
from aio_pika.exceptions import AMQPConnectionError, InvalidFrameError

from gateway.devstack.rabbitmq import RabbitMQ


async def naive(url: str) -> str:
    try:
        connection = await aio_pika.connect_robust(url)
    except AMQPConnectionError as error:
        return f"cannot connect: {error}"
    await connection.close()
    return "connected"


async def cure(url: str) -> str:
    try:
        connection = await aio_pika.connect_robust(url)
    except AMQPConnectionError as error:
        return f"cannot connect: {error}"
    except InvalidFrameError as error:
        if "Connection.OpenOk" not in str(error):
            raise
        return "cannot connect: no such virtual host, or not for this user"
    await connection.close()
    return "connected"


async def test_it_is_no_connection_error(rabbitmq_server: RabbitMQ) -> None:
    with pytest.raises(InvalidFrameError, match=r"Connection\.OpenOk"):  # else aio-pika says what is wrong by now
        await naive(rabbitmq_server.url_of("nowhere"))


async def test_the_answer_that_it_expected_tells(rabbitmq_server: RabbitMQ) -> None:
    assert await cure(rabbitmq_server.url_of("nowhere")) == "cannot connect: no such virtual host, or not for this user"
    assert await cure(rabbitmq_server.url) == "connected"
