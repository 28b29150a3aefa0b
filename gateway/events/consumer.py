"""Consuming a queue: each message is worked in, or buried, or kept until it can be worked in."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Generic, Self, TypeVar

import structlog
from aio_pika import RobustConnection
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue

from gateway.concurrency import Backoff, background_task, wait_for_event
from gateway.events.channels import CONNECTION_ERRORS, open_channel
from gateway.events.messages import Event, PoisonMessageError, decode
from gateway.events.topology import Queue, declare
from gateway.lifecycle import format_error
from gateway.lifecycle.cancellation import current_task_cancelled
from gateway.resources.base import Resource

E = TypeVar("E", bound=Event)

OPEN_TIMEOUT = 5.0
"""Seconds to begin to consume. A broker that stalls is asked again on another channel."""

DRAIN_TIMEOUT = 1.0
"""Seconds that handlers have to end, once consuming stops; what they do not finish comes again."""

CLOSE_TIMEOUT = 0.5
"""Seconds for each goodbye to the broker, and for handlers that are cancelled."""

log = structlog.get_logger("gateway.consumer")


class HandlerError(Exception):
    """A handler failed for a reason that does not pass by itself: a mistake of ours."""


class Consumer(Resource["Consumer[E]"], Generic[E]):
    """Calls a handler for each event in a queue. A message may come more than once: the handler has to know it again.

    - Done: it is acknowledged, and gone.
    - Poison: it is rejected, and ends among the dead letters. Trying again would not help.
    - What the handler needs is away: the message stays here, and is tried again until it is back. It is not given back,
      for that would count as a delivery, and an outage would bury it.
    - The channel or the broker is lost: another channel is opened, and the messages come again.
    - Anything else is a mistake of ours, and ends the consumer: the process stops, and is started again by whoever runs it.
    """

    def __init__(
        self,
        name: str,
        rabbitmq: RobustConnection,
        queue: Queue,
        kind: type[E],
        handle: Callable[[E], Awaitable[None]],
        *,
        is_transient: Callable[[Exception], bool],
        prefetch: int,
    ) -> None:
        """Make one that is not consuming yet.

        Args:
            name: the name of its entry.
            rabbitmq: comes back by itself when it is lost.
            queue: what to consume.
            kind: of the events in it.
            handle: called for each, several at once.
            is_transient: whether what the handler raised passes by itself.
            prefetch: how many messages there are here at once.
        """
        super().__init__()
        self.name = name
        self.poison = 0
        """How many messages were rejected."""
        self._rabbitmq = rabbitmq
        self._queue = queue
        self._kind = kind
        self._handle = handle
        self._is_away = is_transient
        self._prefetch = prefetch
        self._handling: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._broken: asyncio.Future[None] | None = None
        self._log = log.bind(queue=queue.name)

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Self]:
        """Consume until this is left. It ends by itself only by a mistake of ours."""
        self._broken = asyncio.get_running_loop().create_future()
        within = DRAIN_TIMEOUT + 3 * CLOSE_TIMEOUT
        async with background_task(self._work(), name=self._queue.name, stop=self._stopping.set, stop_timeout=within):
            yield self

    async def _work(self) -> None:
        backoff = Backoff()
        while not self._stopping.is_set():
            try:
                await self._consume(backoff)
            except asyncio.CancelledError as error:
                if current_task_cancelled():
                    raise
                self._log.warning("consumer interrupted", error=format_error(error))
            except CONNECTION_ERRORS as error:
                self._log.warning("consumer interrupted", error=format_error(error))
            await wait_for_event(self._stopping, timeout=backoff.next_delay())

    async def _consume(self, backoff: Backoff) -> None:
        """Consume on one channel, until that is lost or we stop.

        Raises:
            HandlerError: a handler made a mistake.
            OSError, AMQPError, ...: the broker is away.
        """
        over = asyncio.Event()
        channel = None
        try:
            async with asyncio.timeout(OPEN_TIMEOUT):
                channel = await open_channel(self._rabbitmq, confirms=False)
                channel.close_callbacks.add(lambda *_: over.set())
                # So the broker says that the queue was deleted.
                (await channel.get_underlay_channel()).on_consumer_cancel_callbacks.add(lambda _: over.set())
                await declare(channel)
                await channel.set_qos(prefetch_count=self._prefetch)
                queue = await channel.get_queue(self._queue.name, ensure=False)
                tag = await queue.consume(self._receive)
            self._log.info("consuming")
            backoff.reset()
            await self._first_of(over)
            if self._stopping.is_set() and not over.is_set():
                await self._finish(queue, tag)
        finally:
            for handler in self._handling:
                handler.cancel()
            if self._handling:
                await asyncio.wait(self._handling, timeout=CLOSE_TIMEOUT)
            if channel is not None:
                await _close(channel)

    async def _first_of(self, over: asyncio.Event) -> None:
        """Wait until the channel is over, or we stop, or a handler has made a mistake, which is raised."""
        if self._broken is None:
            raise RuntimeError("the consumer is not open")
        waiting: set[asyncio.Future[Any]] = {asyncio.create_task(event.wait()) for event in (over, self._stopping)}
        try:
            await asyncio.wait({*waiting, self._broken}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        if self._broken.done():
            self._broken.result()

    async def _finish(self, queue: AbstractQueue, tag: str) -> None:
        """Take no more, and let the handlers in flight end."""
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await queue.cancel(tag)
        if self._handling:
            await asyncio.wait(self._handling, timeout=DRAIN_TIMEOUT)

    async def _receive(self, message: AbstractIncomingMessage) -> None:
        """Let a task of ours work it in: the library's own would be cancelled in the middle when the channel is lost."""
        handler = asyncio.create_task(self._work_in(message))
        self._handling.add(handler)
        handler.add_done_callback(self._on_worked_in)

    def _on_worked_in(self, handler: "asyncio.Task[None]") -> None:
        self._handling.discard(handler)
        error = None if handler.cancelled() else handler.exception()
        if error is not None and self._broken is not None and not self._broken.done():
            broken = HandlerError(format_error(error))
            broken.__cause__ = error
            self._broken.set_exception(broken)

    async def _work_in(self, message: AbstractIncomingMessage) -> None:
        try:
            event = decode(message.body, self._kind)
        except PoisonMessageError as error:
            self.poison += 1
            self._log.error(
                "poison message rejected", message_id=message.message_id, error=str(error), so_far=self.poison
            )
            with suppress(*CONNECTION_ERRORS):  # else it comes again, and is still poison
                await message.reject(requeue=False)
            return
        backoff = Backoff()
        while not await self._handled(event, tries_before=backoff.attempts):
            await wait_for_event(self._stopping, timeout=backoff.next_delay())
            if self._stopping.is_set():
                return  # it comes again, to another
        with suppress(*CONNECTION_ERRORS):  # else it comes again, and the handler knows it
            await message.ack()

    async def _handled(self, event: E, *, tries_before: int) -> bool:
        """Call the handler. False: what it needs is away."""
        try:
            await self._handle(event)
        except asyncio.CancelledError as error:
            if current_task_cancelled():
                raise
            away: BaseException = error  # of a library whose connection was lost
        except Exception as error:
            if not self._is_away(error):
                raise
            away = error
        else:
            return True
        if tries_before == 0:
            self._log.warning("handler failed, retrying", event_id=str(event.id), error=format_error(away))
        return False


async def _close(channel: AbstractChannel) -> None:
    """Say goodbye, if there is anybody to hear it."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await channel.close()
    except asyncio.CancelledError:
        if current_task_cancelled():
            raise
    except (*CONNECTION_ERRORS, RuntimeError):
        pass
