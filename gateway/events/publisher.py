"""Publishing with confirms: a message is published when the broker has confirmed that it is in a queue."""

import asyncio
import time
from typing import cast
from uuid import UUID

from aio_pika import DeliveryMode
from aio_pika.abc import AbstractChannel
from aiormq import Channel, spec
from aiormq.exceptions import ChannelAccessRefused, ChannelPreconditionFailed
from aiormq.exceptions import PublishError as MessageReturnedError

from gateway.events.channels import (
    CONNECTION_ERRORS,
    BlockedError,
    MissingError,
    RefusedError,
    open_channel,
    translate_library_cancellation,
)
from gateway.events.topology import EXCHANGE, Queue, ensure, require
from gateway.resources.rabbitmq import BrokerConnection
from gateway.telemetry.trace_context import TRACEPARENT

MAX_TYPE_LENGTH = 255  # bytes of a routing key
REFUSAL_TTL = 0.5  # for a declaration to be tried again; many events may wait for it
REFUSAL_REPORT_TIME = 30.0  # for the health check to report the refusal of an event; after that, the next event decides
CHECK_TIMEOUT = 0.5  # for the broker to respond to a health check


class PublishError(Exception):
    """The broker has not confirmed the message. It may still arrive, so that a retry may deliver it twice."""


class UnconfirmedError(PublishError):
    """The broker is available, and has not confirmed this message: its queue is full, stuck or not bound, or the channel was lost."""


class ChannelRefusedError(UnconfirmedError):
    """The broker has closed the channel because of this message, or because of another one that was in flight."""


class MessageRejectedError(PublishError):
    """The message cannot be published as it is. The error's text is the reason."""


class UnroutableError(MessageRejectedError):
    """No queue takes messages of this type."""


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
        self._underlay: Channel | None = None  # of the channel; None: everything has to be declared again
        self._opening = asyncio.Lock()
        self._may_declare = True
        self._refusal: str | None = None  # of the latest event; None if it was published
        self._refused_at = 0.0
        self._declaration_refusal: RefusedError | None = None  # of the latest declaration
        self._declaration_refused_at = 0.0

    async def publish(
        self, event_id: UUID, event_type: str, body: bytes, *, timeout: float, traceparent: str | None = None
    ) -> None:
        """Publish an event, persistently. Concurrent calls share the channel.

        Args:
            event_id: the id of the message.
            event_type: the type of the message, and its routing key.
            body: the JSON of the event.
            timeout: seconds until the broker must have confirmed it.
            traceparent: the context of the trace that the event belongs to, or None.

        Raises:
            MessageRejectedError: no queue takes the message, or its type is too long.
            ChannelRefusedError: the broker refuses this message or another one. `publish_alone()` distinguishes them.
            UnconfirmedError: no confirm came in time, the broker has declined the message, or its own queue is not bound.
            PublishError: the broker is unavailable, blocked or refuses the queue. The cause of each error has the details.
        """
        if len(event_type.encode()) > MAX_TYPE_LENGTH:
            raise MessageRejectedError(f"the type is longer than {MAX_TYPE_LENGTH} bytes")
        properties = spec.Basic.Properties(
            message_id=str(event_id),
            message_type=event_type,
            content_type="application/json",
            delivery_mode=DeliveryMode.PERSISTENT,
            headers=None if traceparent is None else {TRACEPARENT: traceparent},
        )
        is_sent = False
        try:
            with translate_library_cancellation():
                async with asyncio.timeout(timeout):
                    channel = await self._open()
                    is_sent = True
                    # aio-pika's own `publish()` waits for the socket after each message, so that each is a packet of its own.
                    await channel.basic_publish(
                        body,
                        exchange=EXCHANGE,
                        routing_key=event_type,
                        properties=properties,
                        mandatory=True,
                        wait=False,
                    )
        except CONNECTION_ERRORS as error:
            self._underlay = None  # the exchange may have been deleted: the next call declares everything again
            if isinstance(error, TimeoutError) and self._connection.blocked is not None:
                raise PublishError from BlockedError(self._connection.blocked)
            raise self._publish_error(error, event_type) if is_sent else PublishError() from error
        self._refusal = None

    async def publish_alone(
        self, event_id: UUID, event_type: str, body: bytes, *, timeout: float, traceparent: str | None = None
    ) -> None:
        """Publish an event as `publish()` does, while no other call is in flight.

        Raises:
            MessageRejectedError: also if the broker refuses the message, for example because it is too large.
            PublishError: as in `publish()`. A missing permission is not the fault of the message.
        """
        try:
            await self.publish(event_id, event_type, body, timeout=timeout, traceparent=traceparent)
        except ChannelRefusedError as error:
            if isinstance(error.__cause__, ChannelPreconditionFailed):
                raise MessageRejectedError(str(error)) from error.__cause__
            raise

    def _publish_error(self, error: Exception, event_type: str) -> PublishError:
        """Return the error for a message that was sent, and keep a refusal for the health check."""
        if isinstance(error, MessageReturnedError):
            if event_type != self._queue.routing_key:
                return UnroutableError(f"no queue takes messages of type {event_type!r}")
            return UnconfirmedError(
                self._keep_refusal(f"{self._queue.name} does not take events: bind it, see docs/events.md: {error}")
            )
        if isinstance(error, ChannelAccessRefused):
            return ChannelRefusedError(self._keep_refusal(f"{error}: grant the user the rights in docs/events.md"))
        if isinstance(error, ChannelPreconditionFailed):
            return ChannelRefusedError(str(error))
        return UnconfirmedError()

    def _keep_refusal(self, reason: str) -> str:
        self._refusal, self._refused_at = reason, time.monotonic()
        return reason

    async def _open(self) -> Channel:
        """Return an open channel, with everything declared."""
        async with self._opening:
            if self._connection.blocked is not None:
                # A message that is sent now would be published in addition to its retry.
                raise BlockedError(self._connection.blocked)
            if self._underlay is None:
                await self._ensure()
            if self._channel is None or self._channel.is_closed:
                self._channel = self._underlay = None
                self._channel = await open_channel(self._connection, confirms=True)
            if self._underlay is None:
                self._underlay = cast("Channel", await self._channel.get_underlay_channel())
            return self._underlay

    async def _ensure(self) -> None:
        """Declare the queue, unless the broker has just refused it."""
        if self._declaration_refusal is not None and time.monotonic() - self._declaration_refused_at < REFUSAL_TTL:
            raise RefusedError(str(self._declaration_refusal))
        await self._ensure_now()

    async def _ensure_now(self) -> None:
        try:
            self._may_declare = await ensure(self._connection, self._queue)
        except RefusedError as error:
            self._declaration_refusal, self._declaration_refused_at = error, time.monotonic()
            raise
        self._declaration_refusal = None

    async def problem(self) -> str | None:
        """Return why the broker would not take an event now: an alarm, or a refusal. None if it is only unavailable.

        An exchange or a queue that is missing is no problem for a user that may declare it. The refusal of an event is
        forgotten after a while, because only another event would show that an operator has ended its cause.
        """
        try:
            with translate_library_cancellation():
                async with asyncio.timeout(CHECK_TIMEOUT):
                    await self._verify()
        except (BlockedError, RefusedError) as error:
            return str(error)
        except CONNECTION_ERRORS:
            return None
        return self._refusal if time.monotonic() - self._refused_at < REFUSAL_REPORT_TIME else None

    async def _verify(self) -> None:
        """Declare the queue again, which compares its arguments. The next event declares what is missing.

        A queue that was just deleted must not be declared before its consumers are notified.
        """
        try:
            await require(self._connection, self._queue)
        except MissingError:
            if not self._may_declare:
                raise
        else:
            if self._may_declare:
                await self._ensure_now()
