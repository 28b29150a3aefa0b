"""A queue consumer: each message is processed, rejected, or held until its dependencies are available again."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import Generic, Self, TypeVar

import structlog
from aio_pika.abc import AbstractIncomingMessage, AbstractQueue

from gateway.concurrency import Backoff, PoolClosedError, TaskPool, background_task, wait_for_any, wait_for_event
from gateway.events.channels import (
    CONNECTION_ERRORS,
    CallCancelledError,
    RefusedError,
    on_consumer_cancelled,
    open_channel,
    translate_library_cancellation,
    translate_refusals,
)
from gateway.events.messages import Event, PoisonMessageError, decode
from gateway.events.topology import Queue, ensure
from gateway.lifecycle import format_error
from gateway.outages import Outage
from gateway.resources.base import DegradedError, PermanentError, Resource
from gateway.resources.rabbitmq import BrokerConnection
from gateway.telemetry.trace_context import TRACEPARENT, span_of_message

E = TypeVar("E", bound=Event)

START_TIMEOUT = 10.0  # for the first channel; an unavailable broker is tried again until then
OPEN_TIMEOUT = 5.0  # for a channel and everything declared on it; the next attempt uses another channel
DRAIN_TIMEOUT = 1.0  # at a stop, for handlers to finish; unfinished messages are delivered again
CLOSE_TIMEOUT = 0.5  # for the end of the deliveries, and for cancelled handlers
MAX_ATTEMPTS = 5  # for an event that is itself the reason for the failure: about half a second
RETRY_GRACE = 5.0  # seconds that a handler may fail before the check reports it
RETRY_LOG_INTERVAL = 60.0  # between two log lines about such handlers

log = structlog.get_logger("gateway.consumer")


class HandlerError(Exception):
    """A handler failed with an error that is not transient, which is a bug."""


@dataclass(frozen=True)
class FailingEvent:
    """An event whose handler has failed, and is called again.

    Attributes:
        since: the monotonic time of the first failure.
        error: the error of the last one.
    """

    since: float
    error: Exception


class Consumer(Resource["Consumer[E]"], Generic[E]):
    """Calls a handler for each event in a queue. Delivery is at least once: the handler must detect repeated events.

    - If the handler succeeds, the message is acknowledged.
    - If the message is not a valid event (poison), it is rejected, because a retry would not help. The broker dead-letters it, if
      its queue has an exchange for that, and otherwise drops it.
    - If the handler fails with a transient error, it is called again until it succeeds. Meanwhile the message stays
      unacknowledged. A requeue would count as a delivery, so a long outage would dead-letter it.
    - If the event itself is the reason for the error, such as a value that the database rejects, the handler is called
      `MAX_ATTEMPTS` times, and then the message is rejected. It would hold its place among the `prefetch` messages forever.
    - If the channel is lost, its handlers are cancelled, and the broker delivers their messages again on the next channel.
    - If the handler fails with another error, the consumer crashes, and the process stops.

    Attributes:
        rejected: the number of messages that were rejected: poison, and events whose handlers always failed.
        refusal: why the broker permits no consumption, until an operator changes something; None while it is permitted or
            the broker is unavailable.
    """

    def __init__(
        self,
        name: str,
        rabbitmq: BrokerConnection,
        queue: Queue,
        event_type: type[E],
        handle: Callable[[E], Awaitable[None]],
        *,
        is_transient: Callable[[Exception], bool],
        is_event_failure: Callable[[Exception], bool] = lambda _: False,
        prefetch: int,
    ) -> None:
        """Configure the consumer.

        Args:
            name: the name of its entry in the lifespan.
            rabbitmq: reconnects on its own.
            queue: the queue to consume.
            event_type: the type of the events in the queue.
            handle: the handler. Calls of it run concurrently.
            is_transient: returns whether to retry after an error of the handler.
            is_event_failure: returns whether the event is the reason for an error of the handler, so that other events may
                succeed.
            prefetch: the maximum number of unacknowledged messages.
        """
        super().__init__()
        self.name = name
        self.start_timeout = START_TIMEOUT
        self.rejected = 0
        self.refusal: RefusedError | None = None
        self._rabbitmq = rabbitmq
        self._queue = queue
        self._event_type = event_type
        self._handle = handle
        self._is_transient = is_transient
        self._is_event_failure = is_event_failure
        self._prefetch = prefetch
        self._handlers = TaskPool()
        self._handler_failed = asyncio.Event()
        self._handler_failure: BaseException | None = None
        self._failing: dict[AbstractIncomingMessage, FailingEvent] = {}
        self._failing_logged_at = -inf
        self._tried = asyncio.Event()  # set when the broker has permitted or refused the consumption
        self._last_error: BaseException | None = None
        self._outage = Outage()
        self._stopping = asyncio.Event()
        self._log = log.bind(queue=queue.name)

    @property
    def queue_name(self) -> str:
        return self._queue.name

    @property
    def in_flight(self) -> int:
        """The number of messages that are being processed."""
        return len(self._handlers)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Self]:
        """Consume for the duration of the block, which begins when the broker has permitted it.

        Raises:
            PermanentError: the broker refuses it.
            HandlerError: a handler failed with an error that is not transient.
        """
        # The calls of `_drain()`, and then the cancelled handlers and the close of the channel.
        stop_timeout = DRAIN_TIMEOUT + 3 * CLOSE_TIMEOUT
        try:
            async with background_task(
                self._run(), name=self._queue.name, stop=self._stopping.set, stop_timeout=stop_timeout
            ):
                await self._wait_until_permitted()
                yield self
        finally:
            await self._handlers.aclose(drain_timeout=0)  # handlers of deliveries that arrived during the close

    async def _wait_until_permitted(self) -> None:
        try:
            await self._tried.wait()
        except asyncio.CancelledError as cancelled:
            raise cancelled from self._last_error  # a start timeout reports it
        if self.refusal is not None:
            raise PermanentError(f"the broker refuses the consumption of {self._queue.name}: {self.refusal}")

    async def check(self) -> str | None:
        """Return the number of rejected messages.

        Raises:
            RefusedError: the broker refuses the consumption.
            DegradedError: handlers fail, and are called again, for longer than `RETRY_GRACE`.
        """
        if self.refusal is not None:
            raise self.refusal
        failing = self._failing_for_long()
        if failing:
            raise DegradedError(f"events waiting: {len(failing)}, trying again: {format_error(failing[-1].error)}")
        return f"{self.rejected} rejected"

    def _failing_for_long(self) -> list[FailingEvent]:
        return [event for event in self._failing.values() if monotonic() - event.since > RETRY_GRACE]

    async def _run(self) -> None:
        """Consume on one channel after another, until the consumer is stopped."""
        backoff = Backoff()
        while not self._stopping.is_set():
            try:
                with translate_library_cancellation(), translate_refusals():
                    await self._consume(backoff)
            except CONNECTION_ERRORS as error:
                self._record_error(error)
            if self._handler_failure is not None:
                raise HandlerError(format_error(self._handler_failure)) from self._handler_failure
            await wait_for_event(self._stopping, timeout=backoff.next_delay())

    def _record_error(self, error: BaseException) -> None:
        text = format_error(error)
        unlogged = self._outage.record(text)
        if unlogged is not None:
            self._log.warning("consumer interrupted", error=text, unlogged=unlogged)
        self._last_error = error
        self.refusal = error if isinstance(error, RefusedError) else None
        if self.refusal is not None:
            self._tried.set()

    async def _consume(self, backoff: Backoff) -> None:
        """Consume on one channel, until it is lost, a handler fails or the consumer is stopped."""
        deliveries_ended = asyncio.Event()
        channel = None
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                await ensure(self._rabbitmq, self._queue)
                channel = await open_channel(self._rabbitmq, confirms=False)
                channel.close_callbacks.add(lambda *_: deliveries_ended.set())
                await on_consumer_cancelled(channel, deliveries_ended.set)
                await channel.set_qos(prefetch_count=self._prefetch)
                queue = await channel.get_queue(self._queue.name, ensure=False)
                consumer_tag = await queue.consume(self._start_handler)
            self._log.info("consuming", failures=self._outage.count)
            self._outage = Outage()
            self.refusal = None
            self._tried.set()
            backoff.reset()
            await wait_for_any(deliveries_ended, self._handler_failed, self._stopping)
            if not deliveries_ended.is_set():
                await self._drain(queue, consumer_tag)
        finally:
            await self._handlers.cancel(timeout=CLOSE_TIMEOUT)
            if channel is not None:
                await self._rabbitmq.close_channel(channel)

    async def _drain(self, queue: AbstractQueue, consumer_tag: str) -> None:
        """End the deliveries, and wait for the handlers in flight."""
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await queue.cancel(consumer_tag)
        await self._handlers.wait(timeout=DRAIN_TIMEOUT)

    async def _start_handler(self, message: AbstractIncomingMessage) -> None:
        """Process the message in a task of the pool.

        aio-pika runs this callback in a task of its own, and cancels that task as soon as the channel is lost.
        """
        with suppress(PoolClosedError):  # the consumer has ended, and the broker delivers it again
            self._handlers.start(self._process(message)).add_done_callback(self._on_processed)

    def _on_processed(self, handler: "asyncio.Task[None]") -> None:
        error = None if handler.cancelled() else handler.exception()
        if error is not None and self._handler_failure is None:
            self._handler_failure = error
            self._handler_failed.set()

    async def _process(self, message: AbstractIncomingMessage) -> None:
        """Call the handler until it succeeds, and acknowledge the message, or reject it."""
        try:
            event = decode(message.body, self._event_type)
        except PoisonMessageError as error:
            await self._reject(message, "poison message rejected", str(error))
            return
        try:
            with self._span_of(message):
                await self._handle_repeatedly(message, event)
        finally:
            self._failing.pop(message, None)

    def _span_of(self, message: AbstractIncomingMessage) -> AbstractContextManager[object]:
        attributes = {
            "messaging.system": "rabbitmq",
            "messaging.operation.type": "process",
            "messaging.destination.name": self._queue.name,
            "messaging.message.id": message.message_id or "",
        }
        return span_of_message(f"process {self._queue.name}", message.headers.get(TRACEPARENT), attributes)

    async def _handle_repeatedly(self, message: AbstractIncomingMessage, event: E) -> None:
        backoff = Backoff()
        event_failures = 0
        while (error := await self._try_handle(event)) is not None:
            event_failures += self._is_event_failure(error)
            if event_failures == MAX_ATTEMPTS:
                await self._reject(message, "event rejected", format_error(error))
                return
            self._record_failure(message, event, error)
            await wait_for_event(self._stopping, timeout=backoff.next_delay())
            if self._stopping.is_set():
                return  # the broker delivers it again
        with suppress(*CONNECTION_ERRORS):  # without an ack, the broker delivers it again, and the handler detects that
            await message.ack()

    async def _reject(self, message: AbstractIncomingMessage, log_event: str, error: str) -> None:
        self.rejected += 1
        self._log.error(log_event, message_id=message.message_id, error=error, rejected=self.rejected)
        with suppress(*CONNECTION_ERRORS):  # if this fails, the broker delivers it again, and it is rejected again
            await message.reject(requeue=False)

    async def _try_handle(self, event: E) -> Exception | None:
        """Call the handler. Return its error, if it is one after which to call it again."""
        try:
            with translate_library_cancellation():
                await self._handle(event)
        except Exception as error:
            if isinstance(error, CallCancelledError) or self._is_transient(error) or self._is_event_failure(error):
                return error
            raise
        return None

    def _record_failure(self, message: AbstractIncomingMessage, event: E, error: Exception) -> None:
        """Store the error for the check. Log the first one of the event, and once a minute that events wait."""
        previous = self._failing.get(message)
        if previous is None:
            self._log.warning("handler failed, retrying", event_id=str(event.id), error=format_error(error))
        self._failing[message] = FailingEvent(monotonic() if previous is None else previous.since, error)
        waiting = len(self._failing_for_long())
        if waiting and monotonic() - self._failing_logged_at >= RETRY_LOG_INTERVAL:
            self._failing_logged_at = monotonic()
            self._log.warning("events waiting", count=waiting, error=format_error(error))
