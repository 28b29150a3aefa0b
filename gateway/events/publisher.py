"""Publishing with confirms: a message is published when the broker has confirmed that it is in a queue."""

import asyncio
from uuid import UUID

from aio_pika import DeliveryMode, Message, RobustConnection
from aio_pika.abc import AbstractChannel, AbstractExchange

from gateway.events.channels import CONNECTION_ERRORS, open_channel, translate_library_cancellation
from gateway.events.topology import declare


class PublishError(Exception):
    """The broker has not confirmed the message. It may still arrive, so that a retry may deliver it twice."""


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
            PublishError: no confirm came in time, no queue takes the message, or the broker is unavailable. The cause has
                the details.
        """
        message = Message(
            body,
            message_id=str(event_id),
            type=event_type,
            content_type="application/json",
            delivery_mode=DeliveryMode.PERSISTENT,
        )
        try:
            with translate_library_cancellation():
                async with asyncio.timeout(timeout):
                    exchange = await self._open()
                    await exchange.publish(message, event_type, mandatory=True)
        except CONNECTION_ERRORS as error:
            self._exchange = None  # it may have been deleted: the next call declares everything again
            raise PublishError from error

    async def _open(self) -> AbstractExchange:
        """Return the exchange on an open channel, with everything declared."""
        async with self._opening:
            if self._channel is None or self._channel.is_closed:
                self._channel = self._exchange = None
                self._channel = await open_channel(self._connection, confirms=True)
            if self._exchange is None:
                self._exchange = await declare(self._channel)
            return self._exchange
