"""The exchanges and queues in RabbitMQ: one exchange, a queue for each type of event, and one for dead letters."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aio_pika import ExchangeType, Message
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractQueue
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError, DeliveryError
from aiormq.exceptions import ChannelAccessRefused, ChannelNotFoundEntity

from gateway.events.channels import (
    MissingError,
    RefusedError,
    opened_channel,
    translate_library_cancellation,
    translate_refusals,
)
from gateway.lifecycle import format_error
from gateway.resources.base import PermanentError
from gateway.resources.rabbitmq import BrokerConnection

EXCHANGE = "gateway.events"
DEAD_LETTERS = "gateway.dead-letters"  # an exchange and a queue, for messages that were rejected or delivered too often
DELIVERY_LIMIT = (
    20  # deliveries of a message; a worker or broker that is killed with an unacknowledged message costs one
)
PROBE_TIMEOUT = 1.0  # for the broker to return a message, if an alarm does not block it


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue of events of one type.

    Attributes:
        name: of the queue.
        routing_key: the type of the events.
        arguments: of its declaration.
        replaces: the queue of an earlier version, which gets no more events.
    """

    name: str
    routing_key: str
    arguments: Mapping[str, str | int] = field(hash=False)
    replaces: str | None = None


OBSERVATIONS = Queue(
    "gateway.observations",
    routing_key="observation.reported",
    arguments={
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-dead-letter-exchange": DEAD_LETTERS,
        # A message leaves its queue only when the dead-letter queue has it. RabbitMQ requires `reject-publish` for that. It
        # has no other effect, because the queue has no length limit.
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    },
)
# Anonymous requests cause these events. While no worker runs, they must not fill the disk: the alarm of RabbitMQ would block the
# observations, too. There is no dead-letter exchange, because it would get all the events that the limits remove.
VIEWS = Queue(
    "gateway.brief-views",
    routing_key="brief.viewed",
    arguments={
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-max-length": 50_000,
        "x-max-length-bytes": 64 * 1024 * 1024,
        "x-overflow": "drop-head",
        "x-message-ttl": 60 * 60 * 1000,  # milliseconds
    },
    replaces="gateway.views",  # which has no limits; the arguments of a queue cannot be changed
)
QUEUES = (OBSERVATIONS, VIEWS)
_DEAD_LETTER_QUEUE = Queue(DEAD_LETTERS, routing_key="", arguments={"x-queue-type": "quorum"})

_PROBE = "gateway.probe"  # a routing key of no queue


async def declare(channel: AbstractChannel, *queues: Queue) -> AbstractExchange:
    """Create what is missing of the exchanges and of some queues, all by default. Return the exchange for publishing."""
    dead_letter_exchange = await channel.declare_exchange(DEAD_LETTERS, ExchangeType.FANOUT, durable=True)
    dead_letter_queue = await _declare_queue(channel, _DEAD_LETTER_QUEUE)
    await dead_letter_queue.bind(dead_letter_exchange)
    exchange = await channel.declare_exchange(EXCHANGE, ExchangeType.TOPIC, durable=True)
    for queue in queues or QUEUES:
        declared = await _declare_queue(channel, queue)
        await declared.bind(exchange, queue.routing_key)
        if queue.replaces is not None:
            # It is not deleted: workers of the earlier version still consume it. RabbitMQ ignores an unbind of a missing queue.
            replaced = await channel.get_queue(queue.replaces, ensure=False)
            await replaced.unbind(exchange, queue.routing_key)
    return exchange


async def _declare_queue(channel: AbstractChannel, queue: Queue) -> AbstractQueue:
    return await channel.declare_queue(queue.name, durable=True, arguments={**queue.arguments})


async def require(connection: BrokerConnection, *queues: Queue) -> None:
    """Require that the exchange and the queues exist, as far as the user may know. This verifies neither arguments nor bindings.

    Raises:
        MissingError: one does not exist.
        ConnectionError: the broker is unavailable.
    """
    async with _lookup(connection) as channel:
        await channel.declare_exchange(EXCHANGE, passive=True)
    for queue in queues:
        async with _lookup(connection) as channel:
            await channel.declare_queue(queue.name, passive=True)


@asynccontextmanager
async def _lookup(connection: BrokerConnection) -> AsyncGenerator[AbstractChannel]:
    """Open a channel for one passive declaration, and ignore that the broker refuses it.

    RabbitMQ 4.3 permits it only to a user with some right to the exchange or queue; earlier versions permit it to all.
    """
    try:
        async with opened_channel(connection) as channel:
            yield channel
    except ChannelNotFoundEntity as error:
        raise MissingError(f"{error}: declare it as docs/events.md describes") from error
    except ChannelAccessRefused:
        pass


async def ensure(connection: BrokerConnection, *queues: Queue) -> bool:
    """Declare the queues, or require that they exist if the user may not configure them. Return whether they were declared.

    Each attempt has a channel of its own, because the broker closes a channel on which it refuses something.

    Raises:
        RefusedError: a queue has other arguments, or is missing and may not be declared.
        ConnectionError: the broker is unavailable.
    """
    with translate_refusals():
        try:
            async with opened_channel(connection) as channel:
                await declare(channel, *queues)
        except ChannelAccessRefused:
            await require(connection, *queues, _DEAD_LETTER_QUEUE)
            return False
    return True


async def verify_publishing(connection: BrokerConnection) -> None:
    """Try what the publishers of this process need: the exchange, the queues with their arguments, the right to publish.

    Raises:
        PermanentError: the broker refuses it.
        ConnectionError: the broker is unavailable.
    """
    try:
        with translate_library_cancellation(), translate_refusals():
            try:
                async with opened_channel(connection, confirms=True) as channel:
                    await _declare_at_once(channel)
                    await probe(channel, connection)
            except ChannelAccessRefused:  # the user may have the right to publish, and not to configure
                await ensure(connection, *QUEUES)
                async with opened_channel(connection, confirms=True) as channel:
                    await probe(channel, connection)
    except RefusedError as error:
        raise PermanentError(f"the broker refuses what the gateway needs: {error}") from error
    except (AMQPError, ChannelInvalidStateError) as error:
        raise ConnectionError(f"the connection was lost: {format_error(error)}") from error


async def _declare_at_once(channel: AbstractChannel) -> None:
    """Declare the exchange and the queues without waiting for replies, which would take several round trips.

    The broker closes the channel if it refuses one, and the next call on the channel raises its error.
    """
    aiormq_channel = await channel.get_underlay_channel()
    await aiormq_channel.exchange_declare(EXCHANGE, exchange_type=ExchangeType.TOPIC.value, durable=True, nowait=True)
    for queue in QUEUES:
        await aiormq_channel.queue_declare(queue.name, durable=True, arguments={**queue.arguments}, nowait=True)


async def probe(channel: AbstractChannel, connection: BrokerConnection) -> None:
    """Publish a message with a routing key of no queue, which the broker returns.

    If an alarm blocks the connection, there is no reply, and the right to publish is not verified. `connection.blocked` is then
    the reason: the broker reports an alarm only after it has received a message.
    """
    exchange = await channel.get_exchange(EXCHANGE, ensure=False)
    try:
        async with asyncio.timeout(PROBE_TIMEOUT):
            await exchange.publish(Message(b"", type=_PROBE, expiration=0), _PROBE, mandatory=True)
    except DeliveryError:
        return
    except TimeoutError:
        if connection.blocked is None:
            raise
