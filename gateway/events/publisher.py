"""Publishing with confirms: a message is published when the broker has confirmed that it is in a queue."""

import asyncio
import math
import time
from uuid import UUID

from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractChannel, AbstractExchange
from aio_pika.exceptions import DeliveryError

from gateway.events.channels import (
    CONNECTION_ERRORS,
    BlockedError,
    RefusedError,
    open_channel,
    opened_channel,
    translate_library_cancellation,
    translate_refusals,
)
from gateway.events.topology import EXCHANGE, Queue, ensure, require
from gateway.resources.rabbitmq import BrokerConnection

REFUSAL_TTL = 0.5  # for a declaration to be tried again; many events may wait for it
CHECK_TIMEOUT = 0.5  # for the broker to respond to a health check


class PublishError(Exception):
    """The broker has not confirmed the message. It may still arrive, so that a retry may deliver it twice."""


class Publisher:
    """Publishes on a channel of its own. The channel is opened on first use, and again after it was lost."""

    def __init__(self, connection: BrokerConnection, queue: Queue) -> None:
        """Open nothing yet.

        Args:
            connection: reconnects on its own.
            queue: declared before events are published. Trouble with other queues does not matter.
        """
        self._connection = connection
        self._queue = queue
        self._channel: AbstractChannel | None = None
        self._exchange: AbstractExchange | None = None
        self._opening = asyncio.Lock()
        self._may_declare = True
        self._refusal: RefusedError | None = None  # of the latest event; None if it was published
        self._refused_at = -math.inf  # the time of the latest refusal of a declaration

    async def publish(self, event_id: UUID, event_type: str, body: bytes, *, timeout: float) -> None:
        """Publish an event, persistently. Concurrent calls share the channel.

        Args:
            event_id: the id of the message.
            event_type: the type of the message, and its routing key.
            body: the JSON of the event.
            timeout: seconds until the broker must have confirmed it.

        Raises:
            PublishError: no confirm came in time, no queue takes the message, or the broker is unavailable, blocked or
                refuses it. The cause has the details.
        """
        message = Message(
            body,
            message_id=str(event_id),
            type=event_type,
            content_type="application/json",
            delivery_mode=DeliveryMode.PERSISTENT,
        )
        try:
            with translate_library_cancellation(), translate_refusals():
                async with asyncio.timeout(timeout):
                    exchange = await self._open()
                    await exchange.publish(message, event_type, mandatory=True)
        except CONNECTION_ERRORS as error:
            self._exchange = None  # it may have been deleted: the next call declares everything again
            raise PublishError from self._explain(error, event_type)
        self._refusal = None

    def _explain(self, error: BaseException, event_type: str) -> BaseException:
        """Return the error, or a better reason, and keep a refusal for the health check."""
        if isinstance(error, TimeoutError) and self._connection.blocked is not None:
            return BlockedError(self._connection.blocked)
        if isinstance(error, DeliveryError) and event_type == self._queue.routing_key:
            error = RefusedError(
                f"{self._queue.name} does not take the event: bind it as docs/events.md describes: {error}"
            )
        if isinstance(error, RefusedError):
            self._refusal = error
        return error

    async def _open(self) -> AbstractExchange:
        """Return the exchange on an open channel, with everything declared."""
        async with self._opening:
            if self._connection.blocked is not None:
                raise BlockedError(
                    self._connection.blocked
                )  # what is sent now would be published in addition to a retry
            if self._exchange is None:
                await self._ensure()
            if self._channel is None or self._channel.is_closed:
                self._channel = self._exchange = None
                self._channel = await open_channel(self._connection, confirms=True)
            if self._exchange is None:
                self._exchange = await self._channel.get_exchange(EXCHANGE, ensure=False)
            return self._exchange

    async def _ensure(self) -> None:
        if self._refusal is not None and time.monotonic() - self._refused_at < REFUSAL_TTL:
            raise RefusedError(str(self._refusal))
        try:
            self._may_declare = await ensure(self._connection, self._queue)
        except RefusedError as error:
            self._refusal, self._refused_at = error, time.monotonic()
            raise

    async def problem(self) -> str | None:
        """Return why the broker would not take an event now: an alarm, or a refusal. None if it is only unavailable.

        The exchanges and the queue have to exist, with the right arguments if this user may declare them.
        """
        try:
            with translate_library_cancellation():
                async with asyncio.timeout(CHECK_TIMEOUT):
                    async with opened_channel(self._connection) as channel:
                        # Before the declaration, which must not be faster than the notification of the consumers of a queue
                        # that was deleted.
                        await require(channel, self._queue)
                    if self._may_declare:
                        self._may_declare = await ensure(self._connection, self._queue)
        except (BlockedError, RefusedError) as error:
            return str(error)
        except CONNECTION_ERRORS:
            return None
        return None if self._refusal is None else str(self._refusal)
