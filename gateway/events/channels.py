"""Channels on the shared connection. They are not restored automatically: the user of a lost channel opens a new one.

aio-pika's robust channels restore themselves, with everything that was declared on them. If an exchange or a queue was
deleted in the meantime, the restoration fails without a notification. So each user of a channel here opens the next
channel and declares everything again.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import aio_pika
from aio_pika import RobustConnection
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError

from gateway.lifecycle.cancellation import current_task_cancelled

# All of them are transient. `TimeoutError` and `ConnectionError` are subclasses of `OSError`.
CONNECTION_ERRORS = (AMQPError, ChannelInvalidStateError, OSError)


class CallCancelledError(ConnectionError):
    """The client library has cancelled its own call, because the connection is lost."""


async def open_channel(connection: RobustConnection, *, confirms: bool) -> AbstractChannel:
    """Open a channel that is not restored after it is lost.

    Args:
        connection: reconnects on its own.
        confirms: use publisher confirms, and raise for messages that no queue takes.

    Raises:
        ConnectionError: the broker is unavailable.
    """
    if not connection.connected.is_set():
        raise ConnectionError("RabbitMQ is unavailable")
    channel = aio_pika.Channel(connection, publisher_confirms=confirms, on_return_raises=confirms)
    try:
        await channel.initialize()
    except RuntimeError as error:  # the connection is lost, and aio-pika has not noticed yet
        raise ConnectionError("RabbitMQ is unavailable") from error
    return channel


async def on_consumer_cancelled(channel: AbstractChannel, callback: Callable[[], object]) -> None:
    """Call `callback` when the broker cancels a consumer of the channel, for example because its queue was deleted.

    aio-pika does not pass this message on. The attribute is one of the aiormq channel below it, and undocumented.
    """
    aiormq_channel = await channel.get_underlay_channel()
    aiormq_channel.on_consumer_cancel_callbacks.add(lambda _: callback())


@contextmanager
def translate_library_cancellation() -> Iterator[None]:
    """Raise `CallCancelledError` in place of a `CancelledError`, unless the current task was cancelled.

    aiormq cancels pending calls when the heartbeat is lost, and other client libraries do the same. The caller must not
    mistake that for its own cancellation.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        if current_task_cancelled():
            raise
        raise CallCancelledError("the client library cancelled the call") from error
