"""Publishing: a message counts as published once the broker has confirmed that it is in a queue."""

import asyncio
from uuid import UUID

from aio_pika import DeliveryMode, Message, RobustConnection
from aio_pika.abc import AbstractChannel, AbstractExchange

from gateway.events.channels import CONNECTION_ERRORS, open_channel
from gateway.events.topology import declare
from gateway.lifecycle.cancellation import current_task_cancelled


class PublishError(Exception):
    """The broker did not confirm. The message may arrive all the same, even later: whoever gets it may get it again."""


class Publisher:
    """Publishes on a channel of its own, which it opens when it is first needed and whenever it was lost."""

    def __init__(self, connection: RobustConnection) -> None:
        self._connection = connection
        self._channel: AbstractChannel | None = None
        self._exchange: AbstractExchange | None = None
        self._opening = asyncio.Lock()

    async def publish(self, event_id: UUID, event_type: str, body: bytes, *, timeout: float) -> None:
        """Publish an event. Several may be published at once.

        Raises:
            PublishError: it was not confirmed within `timeout` seconds, there is no queue for it, or the broker is away.
        """
        message = Message(
            body,
            message_id=str(event_id),
            type=event_type,
            content_type="application/json",
            delivery_mode=DeliveryMode.PERSISTENT,
        )
        try:
            async with asyncio.timeout(timeout):
                exchange = await self._open()
                await exchange.publish(message, event_type, mandatory=True)
        except asyncio.CancelledError as error:
            if current_task_cancelled():
                raise
            failure: BaseException = error
        except CONNECTION_ERRORS as error:
            failure = error
        else:
            return
        self._exchange = None  # who knows what is still there: declare it again
        raise PublishError from failure

    async def _open(self) -> AbstractExchange:
        """The exchange, on a channel that is open, with everything declared."""
        async with self._opening:
            if self._channel is None or self._channel.is_closed:
                self._channel = self._exchange = None
                self._channel = await open_channel(self._connection, confirms=True)
            if self._exchange is None:
                self._exchange = await declare(self._channel)
            return self._exchange
