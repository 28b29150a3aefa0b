"""Publishing with confirms: a message is published when the broker has confirmed that it is in a queue."""

import asyncio
from uuid import UUID

from aio_pika import DeliveryMode, Message, RobustConnection
from aio_pika.abc import AbstractChannel, AbstractExchange
from aiormq.exceptions import ChannelAccessRefused, ChannelPreconditionFailed
from aiormq.exceptions import PublishError as MessageReturnedError

from gateway.events.channels import CONNECTION_ERRORS, open_channel, translate_library_cancellation
from gateway.events.topology import declare

MAX_TYPE_LENGTH = 255  # bytes of a routing key


class PublishError(Exception):
    """The broker has not confirmed the message. It may still arrive, so that a retry may deliver it twice."""


class UnconfirmedError(PublishError):
    """The broker is available, and has not confirmed this message: its queue is full or stuck, or the channel was lost."""


class ChannelRefusedError(UnconfirmedError):
    """The broker has closed the channel because of this message, or because of another one that was in flight."""


class MessageRejectedError(PublishError):
    """The message cannot be published as it is. The error's text is the reason."""


class UnroutableError(MessageRejectedError):
    """No queue takes messages of this type."""


class Publisher:
    """Publishes on a channel of its own. The channel is opened on first use, and again after it was lost."""

    def __init__(self, connection: RobustConnection) -> None:
        self._connection = connection
        self._channel: AbstractChannel | None = None
        self._exchange: AbstractExchange | None = None
        self._opening = asyncio.Lock()

    async def publish(self, event_id: UUID, event_type: str, body: bytes, *, timeout: float) -> None:
        """Publish an event, persistently. Concurrent calls share the channel.

        Args:
            event_id: the id of the message.
            event_type: the type of the message, and its routing key.
            body: the JSON of the event.
            timeout: seconds until the broker must have confirmed it.

        Raises:
            MessageRejectedError: no queue takes the message, or its type is too long.
            ChannelRefusedError: the broker refuses this message or another one. `publish_alone()` distinguishes them.
            UnconfirmedError: no confirm came in time, or the broker has declined the message.
            PublishError: the broker is unavailable. The cause of each error has the details.
        """
        if len(event_type.encode()) > MAX_TYPE_LENGTH:
            raise MessageRejectedError(f"the type is longer than {MAX_TYPE_LENGTH} bytes")
        message = Message(
            body,
            message_id=str(event_id),
            type=event_type,
            content_type="application/json",
            delivery_mode=DeliveryMode.PERSISTENT,
        )
        is_open = False
        try:
            with translate_library_cancellation():
                async with asyncio.timeout(timeout):
                    exchange = await self._open()
                    is_open = True
                    await exchange.publish(message, event_type, mandatory=True)
        except CONNECTION_ERRORS as error:
            self._exchange = None  # it may have been deleted: the next call declares everything again
            raise _publish_error(error, event_type) if is_open else PublishError() from error

    async def publish_alone(self, event_id: UUID, event_type: str, body: bytes, *, timeout: float) -> None:
        """Publish an event as `publish()` does, while no other call is in flight.

        Raises:
            MessageRejectedError: also if the broker refuses the message, for example because it is too large.
            PublishError: as in `publish()`. A missing permission is not the fault of the message.
        """
        try:
            await self.publish(event_id, event_type, body, timeout=timeout)
        except ChannelRefusedError as error:
            if isinstance(error.__cause__, ChannelPreconditionFailed):
                raise MessageRejectedError(str(error)) from error.__cause__
            raise

    async def _open(self) -> AbstractExchange:
        """Return the exchange on an open channel, with everything declared."""
        async with self._opening:
            if self._channel is None or self._channel.is_closed:
                self._channel = self._exchange = None
                self._channel = await open_channel(self._connection, confirms=True)
            if self._exchange is None:
                self._exchange = await declare(self._channel)
            return self._exchange


def _publish_error(error: Exception, event_type: str) -> PublishError:
    """Return the error for a message that was sent."""
    if isinstance(error, MessageReturnedError):
        return UnroutableError(f"no queue takes messages of type {event_type!r}")
    if isinstance(error, ChannelAccessRefused | ChannelPreconditionFailed):
        return ChannelRefusedError(str(error))
    return UnconfirmedError()
