"""The consumer: every message is handled, or buried, or comes again; and it comes back by itself whatever the broker does."""

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

from gateway.devstack.rabbitmq import RabbitMQ as Server
from gateway.events.channels import open_channel
from gateway.events.consumer import Consumer, HandlerError
from gateway.events.messages import ObservationRef, ObservationReported, encode
from gateway.events.topology import DEAD_LETTERS, DELIVERY_LIMIT, EXCHANGE, OBSERVATIONS, declare
from gateway.resources.rabbitmq import RabbitMQ
from tests.support.waiting import TIMEOUT, wait_until


async def nothing(_event: ObservationReported) -> None:
    pass


@dataclass
class Handler:
    """Remembers what it was called with, and does so after something else."""

    first: Callable[[ObservationReported], Awaitable[None]] = nothing
    handled: Counter[UUID] = field(default_factory=Counter)

    async def __call__(self, event: ObservationReported) -> None:
        await self.first(event)
        self.handled[event.id] += 1

    async def has(self, *ids: UUID) -> None:
        """Wait until it has handled the events."""

        async def it_has() -> bool:
            return set(ids) <= set(self.handled)

        await wait_until(it_has, "it has handled them")


def consumer_of(rabbitmq: RabbitMQ, handler: Handler) -> Consumer[ObservationReported]:
    return Consumer(
        "observations",
        rabbitmq.connection,
        OBSERVATIONS,
        ObservationReported,
        handler,
        is_transient=lambda error: isinstance(error, ConnectionError),
        prefetch=10,
    )


async def publish(rabbitmq: RabbitMQ, *bodies: bytes) -> None:
    """Publish what may be no event at all."""
    channel = await open_channel(rabbitmq.connection, confirms=True)
    exchange: AbstractExchange = await declare(channel)
    for body in bodies:
        await exchange.publish(Message(body), OBSERVATIONS.routing_key)
    await channel.close()


async def report(rabbitmq: RabbitMQ, count: int = 1) -> list[UUID]:
    """Publish so many events; return their ids."""
    some = [ObservationReported.create(ObservationRef(observation_id=n, place_id=1)) for n in range(count)]
    await publish(rabbitmq, *map(encode, some))
    return [event.id for event in some]


async def left(rabbitmq: RabbitMQ, queue: str = OBSERVATIONS.name) -> int | None:
    """How many messages wait in a queue, those that nobody has acknowledged aside."""
    channel = await open_channel(rabbitmq.connection, confirms=False)
    declared = await channel.declare_queue(queue, passive=True)
    await channel.close()
    return declared.declaration_result.message_count


async def buried(rabbitmq: RabbitMQ, count: int) -> None:
    """Wait until there are so many dead letters."""

    async def there_are() -> bool:
        return await left(rabbitmq, DEAD_LETTERS) == count

    await wait_until(there_are, f"there are {count} dead letters")


async def test_what_was_handled_is_gone(rabbitmq: RabbitMQ) -> None:
    ids = await report(rabbitmq, 50)
    handler = Handler()
    async with consumer_of(rabbitmq, handler).open():
        await handler.has(*ids)

    assert handler.handled == Counter(ids)
    assert await left(rabbitmq) == 0


async def test_poison_is_buried_and_counted_and_the_next_is_handled(rabbitmq: RabbitMQ) -> None:
    poison = [b"", b"{", b"\xff", b"{}", b'{"type": "unknown"}']
    await publish(rabbitmq, *poison)
    ids = await report(rabbitmq)
    handler = Handler()
    consumer = consumer_of(rabbitmq, handler)
    async with consumer.open():
        await handler.has(*ids)
        await buried(rabbitmq, len(poison))

    assert consumer.poison == len(poison)
    assert handler.handled == Counter(ids)


async def test_what_cannot_be_handled_now_is_kept_however_often_it_is_tried(
    rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.concurrency.MAX_DELAY", 0.01)
    attempts: Counter[UUID] = Counter()

    async def be_away(event: ObservationReported) -> None:
        attempts[event.id] += 1
        if attempts[event.id] <= 3 * DELIVERY_LIMIT:
            raise ConnectionError("away")

    ids = await report(rabbitmq, 5)
    handler = Handler(be_away)
    async with consumer_of(rabbitmq, handler).open():
        await handler.has(*ids)

    assert handler.handled == Counter(ids)
    assert min(attempts.values()) > DELIVERY_LIMIT
    await buried(rabbitmq, 0)


async def test_a_library_that_cancels_itself_is_away_too(rabbitmq: RabbitMQ) -> None:
    attempts: Counter[UUID] = Counter()

    async def be_cancelled(event: ObservationReported) -> None:
        attempts[event.id] += 1
        if attempts[event.id] == 1:
            raise asyncio.CancelledError

    ids = await report(rabbitmq)
    handler = Handler(be_cancelled)
    async with consumer_of(rabbitmq, handler).open():
        await handler.has(*ids)

    assert attempts == Counter(ids * 2)


async def test_a_mistake_ends_it_and_a_message_that_does_so_every_time_is_buried(rabbitmq: RabbitMQ) -> None:
    async def fail(_event: ObservationReported) -> None:
        raise ZeroDivisionError

    await report(rabbitmq)
    deaths = 0
    while await left(rabbitmq, DEAD_LETTERS) == 0:
        with pytest.raises(HandlerError, match="ZeroDivisionError"):
            async with asyncio.timeout(TIMEOUT), consumer_of(rabbitmq, Handler(fail)).open():
                await asyncio.Event().wait()
        deaths += 1
        await _settled(rabbitmq)

    assert DELIVERY_LIMIT <= deaths <= DELIVERY_LIMIT + 2


async def _settled(rabbitmq: RabbitMQ) -> None:
    """Wait until the message is in a queue again: its channel was closed a moment ago."""

    async def it_is() -> bool:
        return (await left(rabbitmq) or 0) + (await left(rabbitmq, DEAD_LETTERS) or 0) == 1

    await wait_until(it_is, "it is in a queue")


Trouble = Callable[[RabbitMQ, Server, AbstractChannel], Awaitable[None]]


async def is_killed(_rabbitmq: RabbitMQ, server: Server, _channel: AbstractChannel) -> None:
    await server.sync()
    server.kill()
    await server.start()


async def is_restarted(_rabbitmq: RabbitMQ, server: Server, _channel: AbstractChannel) -> None:
    await server.restart()


async def stalls(rabbitmq: RabbitMQ, server: Server, _channel: AbstractChannel) -> None:
    with server.suspended():
        ping = asyncio.create_task(open_channel(rabbitmq.connection, confirms=False))
        await asyncio.wait({ping}, timeout=1)
    await (await ping).close()


async def loses_its_queue(rabbitmq: RabbitMQ, _server: Server, channel: AbstractChannel) -> None:
    await channel.queue_delete(OBSERVATIONS.name)
    await _declared_again(rabbitmq)


async def loses_everything(rabbitmq: RabbitMQ, _server: Server, channel: AbstractChannel) -> None:
    for exchange in (EXCHANGE, DEAD_LETTERS):
        await channel.exchange_delete(exchange)
    for queue in (DEAD_LETTERS, OBSERVATIONS.name):
        await channel.queue_delete(queue)
    await _declared_again(rabbitmq)


async def _declared_again(rabbitmq: RabbitMQ) -> None:
    """Wait until the consumer has made its queue anew.

    A quorum queue of RabbitMQ 3.10 that is deleted and made again in the same moment, before its consumers were told, keeps
    the old ones, and nobody gets what comes then: a test that published at once would make it so.
    """

    async def it_is() -> bool:
        try:
            await left(rabbitmq)
        except ChannelNotFoundEntity:
            return False
        return True

    await wait_until(it_is, "the queue is there again")


async def loses_the_connection(rabbitmq: RabbitMQ, _server: Server, _channel: AbstractChannel) -> None:
    transport = rabbitmq.connection.transport
    assert transport is not None
    await transport.connection.close(asyncio.CancelledError())  # as the library does when the heartbeat is lost


@pytest.mark.parametrize(
    "trouble", [is_killed, is_restarted, stalls, loses_its_queue, loses_everything, loses_the_connection]
)
async def test_it_consumes_again_when_the_broker(
    rabbitmq: RabbitMQ, rabbitmq_server: Server, channel: AbstractChannel, trouble: Trouble
) -> None:
    handler = Handler()
    async with consumer_of(rabbitmq, handler).open():
        await handler.has(*await report(rabbitmq))
        await trouble(rabbitmq, rabbitmq_server, channel)
        await rabbitmq.connection.connected.wait()

        async def reported() -> bool:
            try:
                ids.extend(await report(rabbitmq))
            except Exception:  # noqa: BLE001 - it may be coming back just now
                return False
            return True

        ids: list[UUID] = []
        await wait_until(reported, "a message can be published")
        await handler.has(*ids)


async def test_what_was_being_handled_when_the_channel_was_lost_comes_again(
    rabbitmq: RabbitMQ, rabbitmq_server: Server
) -> None:
    begun: Counter[UUID] = Counter()

    async def hang_once(event: ObservationReported) -> None:
        begun[event.id] += 1
        if begun[event.id] == 1:
            await asyncio.Event().wait()

    ids = await report(rabbitmq, 3)
    handler = Handler(hang_once)
    async with consumer_of(rabbitmq, handler).open():

        async def all_begun() -> bool:
            return len(begun) == 3

        await wait_until(all_begun, "all are being handled")
        await rabbitmq_server.sync()
        rabbitmq_server.kill()
        await rabbitmq_server.start()
        await handler.has(*ids)

    assert handler.handled == Counter(ids)


class TestItsEnd:
    async def test_lets_what_is_being_handled_end_and_takes_no_more(
        self, rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("gateway.events.consumer.DRAIN_TIMEOUT", TIMEOUT)
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def take_a_while(_event: ObservationReported) -> None:
            begun.set()
            await go_on.wait()

        ids = await report(rabbitmq)
        handler = Handler(take_a_while)
        async with consumer_of(rabbitmq, handler).open():
            await asyncio.wait_for(begun.wait(), TIMEOUT)
            asyncio.get_running_loop().call_later(0.3, go_on.set)

        assert handler.handled == Counter(ids)
        assert await left(rabbitmq) == 0

    async def test_does_not_wait_for_ever_and_what_was_not_done_comes_again(self, rabbitmq: RabbitMQ) -> None:
        begun = asyncio.Event()

        async def hang(_event: ObservationReported) -> None:
            begun.set()
            await asyncio.Event().wait()

        ids = await report(rabbitmq)
        consumer = consumer_of(rabbitmq, Handler(hang))
        async with consumer.open():
            await asyncio.wait_for(begun.wait(), TIMEOUT)
            began = time.monotonic()
        assert time.monotonic() - began < 10  # without a bound it would wait for the handler forever
        assert consumer._handling == set()

        handler = Handler()
        async with consumer_of(rabbitmq, handler).open():
            await handler.has(*ids)
