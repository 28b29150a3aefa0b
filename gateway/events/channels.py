"""Channels on the shared connection. They are not restored automatically: the user of a lost channel opens a new one.

aio-pika's robust channels restore themselves, with everything that was declared on them. If an exchange or a queue was
deleted in the meantime, the restoration fails without a notification. So each user of a channel here opens the next
channel and declares everything again.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import aio_pika
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError
from aiormq.exceptions import (
    ChannelAccessRefused,
    ChannelLockedResource,
    ChannelPreconditionFailed,
)

from gateway.lifecycle.cancellation import current_task_cancelled
from gateway.resources.broker_transport import ClosedByBrokerError
from gateway.resources.rabbitmq import BrokerConnection

# `TimeoutError` and `ConnectionError` are subclasses of `OSError`.
CONNECTION_ERRORS = (AMQPError, ChannelInvalidStateError, OSError)

# The broker repeats these errors until an operator changes something.
_ADVICE = {
    ChannelAccessRefused: "grant the user the rights in docs/events.md",
    ChannelPreconditionFailed: "delete it, so that it is declared again, or declare it as docs/events.md describes",
    ChannelLockedResource: "close the other connection that uses it",
}


class CallCancelledError(ConnectionError):
    """The client library has cancelled its own call, because the connection is lost."""


class RefusedError(ConnectionError):
    """The broker refuses a call until an operator changes something. The message has its text and the advice."""


class MissingError(RefusedError):
    """An exchange or a queue does not exist."""


class BlockedError(ConnectionError):
    """An alarm of the broker blocks the connection. The message has the reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"blocked by an alarm of the broker: {reason}")


async def open_channel(connection: BrokerConnection, *, confirms: bool) -> AbstractChannel:
    """Open a channel that is not restored after it is lost.

    Args:
        connection: reconnects on its own.
        confirms: use publisher confirms, and raise for messages that no queue takes.

    Raises:
        RefusedError: the broker rejects the connection.
        BlockedError: an alarm blocks the connection.
        ConnectionError: the broker is unavailable.
    """
    if not connection.connected.is_set():
        raise _unavailable(connection)
    if connection.blocked is not None:
        raise BlockedError(connection.blocked)
    channel = aio_pika.Channel(connection, publisher_confirms=confirms, on_return_raises=confirms)
    try:
        await channel.initialize()
    except RuntimeError as error:  # the connection is lost, and aio-pika has not noticed yet
        raise _unavailable(connection) from error
    return channel


def _unavailable(connection: BrokerConnection) -> ConnectionError:
    reason = connection.last_error
    if isinstance(reason, ClosedByBrokerError) and reason.is_permanent:
        return RefusedError(f"{reason}: correct GATEWAY_RABBITMQ__URL, or the rights of its user")
    return ConnectionError(f"RabbitMQ is unavailable: {reason}" if reason else "RabbitMQ is unavailable")


@asynccontextmanager
async def opened_channel(connection: BrokerConnection, *, confirms: bool = False) -> AsyncGenerator[AbstractChannel]:
    """Open a channel for the duration of the block; see `open_channel()`."""
    channel = await open_channel(connection, confirms=confirms)
    try:
        yield channel
    finally:
        await connection.close_channel(channel)


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


@contextmanager
def translate_refusals() -> Iterator[None]:
    """Raise `RefusedError`, with the text of the broker and the advice, in place of an error that no retry changes."""
    try:
        yield
    except tuple(_ADVICE) as error:
        raise RefusedError(f"{error}: {_ADVICE[type(error)]}") from error
