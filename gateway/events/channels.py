"""Channels of our own on the shared connection, each opened anew when it is lost.

aio-pika's robust channels come back by themselves, with what was declared on them; but not when an exchange or a queue was
deleted meanwhile, and nobody is told. Here whoever uses a channel opens the next one, and declares everything again.
"""

import aio_pika
from aio_pika import RobustConnection
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError

CONNECTION_ERRORS = (AMQPError, ChannelInvalidStateError, OSError)
"""What passes once the broker is back. `TimeoutError` is an `OSError`, too."""


async def open_channel(connection: RobustConnection, *, confirms: bool) -> AbstractChannel:
    """Open a channel that does not come back: the caller sees when it is lost.

    Raises:
        ConnectionError: the broker is away; the connection tries to come back by itself.
    """
    if not connection.connected.is_set():
        raise ConnectionError("RabbitMQ is away")
    channel = aio_pika.Channel(connection, publisher_confirms=confirms, on_return_raises=confirms)
    try:
        await channel.initialize()
    except RuntimeError as error:  # the connection is lost, and the library about to notice
        raise ConnectionError("RabbitMQ is away") from error
    return channel
