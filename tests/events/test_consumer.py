"""The consumer: each message is handled, dead-lettered or delivered again, and the consumer recovers from any broker failure."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from uuid import UUID

import pytest
from aio_pika import Message
from aio_pika.abc import AbstractChannel, AbstractExchange
from aio_pika.exceptions import ChannelNotFoundEntity

from gateway.devstack.rabbitmq import RabbitMQServer
from gateway.events.channels import open_channel
from gateway.events.consumer import MAX_ATTEMPTS, Consumer, HandlerError
from gateway.events.messages import ObservationRef, ObservationReported, encode
from gateway.events.topology import DEAD_LETTERS, DELIVERY_LIMIT, EXCHANGE, OBSERVATIONS, declare
from gateway.resources.base import DegradedError
from gateway.resources.rabbitmq import RabbitMQ
from tests.support.waiting import TIMEOUT, wait_until

PREFETCH = 10


async def succeed(_event: ObservationReported) -> None:
    pass


@dataclass
class Handler:
    """A handler that awaits `behaviour` and then records the event.

    Attributes:
        behaviour: raises, waits or returns.
        handled: the number of times that the handling of each event succeeded.
    """

    behaviour: Callable[[ObservationReported], Awaitable[None]] = succeed
    handled: Counter[UUID] = field(default_factory=Counter)

    async def __call__(self, event: ObservationReported) -> None:
        await self.behaviour(event)
        self.handled[event.id] += 1

    async def wait_for(self, *ids: UUID) -> None:
        """Wait until the events were handled."""
        await wait_until(lambda: set(ids) <= set(self.handled), "the events are handled")


def make_consumer(rabbitmq: RabbitMQ, handler: Handler) -> Consumer[ObservationReported]:
    return Consumer(
        "observations",
        rabbitmq.connection,
        OBSERVATIONS,
        ObservationReported,
        handler,
        is_transient=lambda error: isinstance(error, ConnectionError),
        is_event_failure=lambda error: isinstance(error, OverflowError),
        prefetch=PREFETCH,
    )


async def publish(rabbitmq: RabbitMQ, *bodies: bytes) -> None:
    channel = await open_channel(rabbitmq.connection, confirms=True)
    exchange: AbstractExchange = await declare(channel)
    for body in bodies:
        await exchange.publish(Message(body), OBSERVATIONS.routing_key)
    await channel.close()


async def publish_events(rabbitmq: RabbitMQ, count: int = 1) -> list[UUID]:
    """Publish `count` events. Return their ids."""
    events = [ObservationReported.create(ObservationRef(observation_id=n, place_id=1)) for n in range(count)]
    await publish(rabbitmq, *map(encode, events))
    return [event.id for event in events]


async def depth(rabbitmq: RabbitMQ, queue: str = OBSERVATIONS.name) -> int:
    """Return the number of messages in a queue that are not delivered."""
    channel = await open_channel(rabbitmq.connection, confirms=False)
    declared = await channel.declare_queue(queue, passive=True)
    await channel.close()
    return declared.declaration_result.message_count or 0


async def degraded(consumer: Consumer[ObservationReported]) -> str | None:
    """Return the reason why the check reports a degraded consumer, or None."""
    try:
        await consumer.check()
    except DegradedError as error:
        return str(error)
    return None


async def wait_for_dead_letters(rabbitmq: RabbitMQ, count: int) -> None:
    async def is_reached() -> bool:
        return await depth(rabbitmq, DEAD_LETTERS) == count

    await wait_until(is_reached, f"there are {count} dead letters")


class TestProcessing:
    async def test_handled_messages_are_removed(self, rabbitmq: RabbitMQ) -> None:
        """Each event is handled once, and the queue is empty afterwards."""
        ids = await publish_events(rabbitmq, 50)
        handler = Handler()
        async with make_consumer(rabbitmq, handler).open():
            await handler.wait_for(*ids)

        assert handler.handled == Counter(ids)
        assert await depth(rabbitmq) == 0

    async def test_poison_is_dead_lettered(self, rabbitmq: RabbitMQ) -> None:
        """Messages that are not events are counted and dead-lettered, and the next event is handled."""
        poison = [b"", b"{", b"\xff", b"{}", b'{"type": "unknown"}']
        await publish(rabbitmq, *poison)
        ids = await publish_events(rabbitmq)
        handler = Handler()
        consumer = make_consumer(rabbitmq, handler)
        async with consumer.open():
            await handler.wait_for(*ids)
            await wait_for_dead_letters(rabbitmq, len(poison))

        assert consumer.rejected == len(poison)
        assert handler.handled == Counter(ids)

    async def test_transient_error_is_retried(self, rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch) -> None:
        """A transient error is retried more often than the delivery limit, and no message is dead-lettered."""
        monkeypatch.setattr("gateway.concurrency.MAX_DELAY", 0.01)
        attempts: Counter[UUID] = Counter()

        async def fail_often(event: ObservationReported) -> None:
            attempts[event.id] += 1
            if attempts[event.id] <= 3 * DELIVERY_LIMIT:
                raise ConnectionError("unavailable")

        ids = await publish_events(rabbitmq, 5)
        handler = Handler(fail_often)
        async with make_consumer(rabbitmq, handler).open():
            await handler.wait_for(*ids)

        assert handler.handled == Counter(ids)
        assert min(attempts.values()) > DELIVERY_LIMIT
        await wait_for_dead_letters(rabbitmq, 0)

    async def test_failing_events_delay_no_others(self, rabbitmq: RabbitMQ) -> None:
        """Events that are the reason for their failure are dead-lettered after some attempts. Others are handled."""
        attempts: Counter[UUID] = Counter()
        failing = await publish_events(rabbitmq, PREFETCH + 2)
        ids = await publish_events(rabbitmq)

        async def fail(event: ObservationReported) -> None:
            if event.id in failing:
                attempts[event.id] += 1
                raise OverflowError

        handler = Handler(fail)
        consumer = make_consumer(rabbitmq, handler)
        async with consumer.open():
            await handler.wait_for(*ids)
            await wait_for_dead_letters(rabbitmq, len(failing))

        assert attempts == Counter(failing * MAX_ATTEMPTS)
        assert consumer.rejected == len(failing)

    async def test_long_retries_degrade_the_check(self, rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch) -> None:
        """The check reports events whose handlers fail for long, with their number and the error, until they succeed."""
        monkeypatch.setattr("gateway.events.consumer.RETRY_GRACE", 0.1)
        available = asyncio.Event()

        async def fail_while_unavailable(_event: ObservationReported) -> None:
            if not available.is_set():
                raise ConnectionError("unavailable")

        ids = await publish_events(rabbitmq, 3)
        handler = Handler(fail_while_unavailable)
        consumer = make_consumer(rabbitmq, handler)

        async def is_reported() -> bool:
            return await degraded(consumer) == "events waiting: 3, trying again: ConnectionError: unavailable"

        async with consumer.open():
            await wait_until(is_reported, "the check reports the events")
            available.set()
            await handler.wait_for(*ids)
            await wait_until(lambda: consumer.in_flight == 0, "the messages are acknowledged")
            assert await consumer.check() == "0 rejected"

    async def test_library_cancellation_is_retried(self, rabbitmq: RabbitMQ) -> None:
        """A handler that a client library cancels is called again."""
        attempts: Counter[UUID] = Counter()

        async def cancel_once(event: ObservationReported) -> None:
            attempts[event.id] += 1
            if attempts[event.id] == 1:
                raise asyncio.CancelledError

        ids = await publish_events(rabbitmq)
        handler = Handler(cancel_once)
        async with make_consumer(rabbitmq, handler).open():
            await handler.wait_for(*ids)

        assert attempts == Counter(ids * 2)

    async def test_handler_bug_crashes_the_consumer(self, rabbitmq: RabbitMQ) -> None:
        """A permanent error crashes the consumer. A message that crashes it every time is finally dead-lettered."""

        async def fail(_event: ObservationReported) -> None:
            raise ZeroDivisionError

        async def is_queued_again() -> bool:
            return await depth(rabbitmq) + await depth(rabbitmq, DEAD_LETTERS) == 1

        await publish_events(rabbitmq)
        crashes = 0
        while await depth(rabbitmq, DEAD_LETTERS) == 0:
            with pytest.raises(HandlerError, match="ZeroDivisionError"):
                async with asyncio.timeout(TIMEOUT), make_consumer(rabbitmq, Handler(fail)).open():
                    await asyncio.Event().wait()
            crashes += 1
            await wait_until(is_queued_again, "the message of the closed channel is in a queue again")

        assert DELIVERY_LIMIT <= crashes <= DELIVERY_LIMIT + 2


Failure = Callable[[RabbitMQ, RabbitMQServer, AbstractChannel], Awaitable[None]]


async def broker_killed(_rabbitmq: RabbitMQ, server: RabbitMQServer, _channel: AbstractChannel) -> None:
    await server.sync()
    server.kill()
    await server.start()


async def broker_restarted(_rabbitmq: RabbitMQ, server: RabbitMQServer, _channel: AbstractChannel) -> None:
    await server.restart()


async def broker_paused(rabbitmq: RabbitMQ, server: RabbitMQServer, _channel: AbstractChannel) -> None:
    with server.suspended():
        ping = asyncio.create_task(open_channel(rabbitmq.connection, confirms=False))
        await asyncio.wait({ping}, timeout=1)
    await (await ping).close()


async def queue_deleted(rabbitmq: RabbitMQ, _server: RabbitMQServer, channel: AbstractChannel) -> None:
    await channel.queue_delete(OBSERVATIONS.name)
    await _wait_for_queue(rabbitmq)


async def topology_deleted(rabbitmq: RabbitMQ, _server: RabbitMQServer, channel: AbstractChannel) -> None:
    for exchange in (EXCHANGE, DEAD_LETTERS):
        await channel.exchange_delete(exchange)
    for queue in (DEAD_LETTERS, OBSERVATIONS.name):
        await channel.queue_delete(queue)
    await _wait_for_queue(rabbitmq)


async def _wait_for_queue(rabbitmq: RabbitMQ) -> None:
    """Wait until the consumer has declared its queue again.

    RabbitMQ 3.10 has a bug: if a quorum queue is deleted and declared again before its consumers are notified, it keeps
    the old consumers, which get no messages. A publish right after the deletion would declare the queue that early.
    """

    async def is_declared() -> bool:
        try:
            await depth(rabbitmq)
        except ChannelNotFoundEntity:
            return False
        return True

    await wait_until(is_declared, "the queue is declared again")


async def heartbeat_lost(rabbitmq: RabbitMQ, _server: RabbitMQServer, _channel: AbstractChannel) -> None:
    transport = rabbitmq.connection.transport
    assert transport is not None
    await transport.connection.close(asyncio.CancelledError())  # as aiormq does


class TestRecovery:
    @pytest.mark.parametrize(
        "fail", [broker_killed, broker_restarted, broker_paused, queue_deleted, topology_deleted, heartbeat_lost]
    )
    async def test_consumes_again_after_failure(
        self, rabbitmq: RabbitMQ, rabbitmq_server: RabbitMQServer, channel: AbstractChannel, fail: Failure
    ) -> None:
        """After each failure the consumer handles new events without a restart."""
        handler = Handler()
        async with make_consumer(rabbitmq, handler).open():
            await handler.wait_for(*await publish_events(rabbitmq))
            await fail(rabbitmq, rabbitmq_server, channel)
            await rabbitmq.connection.connected.wait()

            ids: list[UUID] = []

            async def is_published() -> bool:
                try:
                    ids.extend(await publish_events(rabbitmq))
                except Exception:  # noqa: BLE001 - the broker may not be back yet
                    return False
                return True

            await wait_until(is_published, "an event is published")
            await handler.wait_for(*ids)

    async def test_unfinished_events_are_redelivered(self, rabbitmq: RabbitMQ, rabbitmq_server: RabbitMQServer) -> None:
        """If the channel is lost while handlers are running, their events are delivered again and handled once."""
        started: Counter[UUID] = Counter()

        async def hang_once(event: ObservationReported) -> None:
            started[event.id] += 1
            if started[event.id] == 1:
                await asyncio.Event().wait()

        ids = await publish_events(rabbitmq, 3)
        handler = Handler(hang_once)
        async with make_consumer(rabbitmq, handler).open():
            await wait_until(lambda: len(started) == 3, "all handlers are running")
            await rabbitmq_server.sync()
            rabbitmq_server.kill()
            await rabbitmq_server.start()
            await handler.wait_for(*ids)

        assert handler.handled == Counter(ids)


class TestStop:
    async def test_running_handlers_finish(self, rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch) -> None:
        """A handler that ends within the drain timeout is not cancelled, and its message is acknowledged."""
        monkeypatch.setattr("gateway.events.consumer.DRAIN_TIMEOUT", TIMEOUT)
        started, finish = asyncio.Event(), asyncio.Event()

        async def wait_for_finish(_event: ObservationReported) -> None:
            started.set()
            await finish.wait()

        ids = await publish_events(rabbitmq)
        handler = Handler(wait_for_finish)
        async with make_consumer(rabbitmq, handler).open():
            await asyncio.wait_for(started.wait(), TIMEOUT)
            asyncio.get_running_loop().call_later(0.3, finish.set)

        assert handler.handled == Counter(ids)
        assert await depth(rabbitmq) == 0

    async def test_hanging_handlers_are_cancelled(self, rabbitmq: RabbitMQ) -> None:
        """A handler that hangs is cancelled after the drain timeout, and its event is delivered again."""
        started = asyncio.Event()

        async def hang(_event: ObservationReported) -> None:
            started.set()
            await asyncio.Event().wait()

        ids = await publish_events(rabbitmq)
        consumer = make_consumer(rabbitmq, Handler(hang))
        async with consumer.open():
            await asyncio.wait_for(started.wait(), TIMEOUT)
            stopped_at = time.monotonic()
        assert time.monotonic() - stopped_at < 10  # without a timeout it would wait forever
        assert consumer.in_flight == 0

        handler = Handler()
        async with make_consumer(rabbitmq, handler).open():
            await handler.wait_for(*ids)

    async def test_bug_during_the_drain_is_raised(self, rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch) -> None:
        """A handler that fails with another error while the consumer stops fails the release of the consumer."""
        monkeypatch.setattr("gateway.events.consumer.DRAIN_TIMEOUT", TIMEOUT)
        started, fail_now = asyncio.Event(), asyncio.Event()

        async def fail_later(_event: ObservationReported) -> None:
            started.set()
            await fail_now.wait()
            raise ZeroDivisionError

        await publish_events(rabbitmq)
        with pytest.raises(HandlerError, match="ZeroDivisionError"):
            async with make_consumer(rabbitmq, Handler(fail_later)).open():
                await asyncio.wait_for(started.wait(), TIMEOUT)
                asyncio.get_running_loop().call_later(0.1, fail_now.set)
