"""Where events travel in RabbitMQ: one exchange, a queue for each kind of event, and one for what cannot be worked in."""

from dataclasses import dataclass

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractExchange

EXCHANGE = "gateway.events"

DEAD_LETTERS = "gateway.dead-letters"
"""The exchange and the queue of what was rejected, or delivered too often. It waits there for a person."""

DELIVERY_LIMIT = 20
"""How often a message is delivered: each worker or broker that is killed while it has one costs a delivery."""


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue, and the type of the events in it."""

    name: str
    routing_key: str


OBSERVATIONS = Queue("gateway.observations", routing_key="observation.reported")
VIEWS = Queue("gateway.views", routing_key="brief.viewed")

_ARGUMENTS: dict[str, str | int] = {
    "x-queue-type": "quorum",
    "x-delivery-limit": DELIVERY_LIMIT,
    "x-dead-letter-exchange": DEAD_LETTERS,
    # A message is only gone from its queue when the dead letters have it. RabbitMQ does that for queues that refuse what
    # does not fit, and ours have no limit.
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}


async def declare(channel: AbstractChannel) -> AbstractExchange:
    """Make what is missing; return the exchange to publish to. What is there already stays as it is."""
    dead = await channel.declare_exchange(DEAD_LETTERS, ExchangeType.FANOUT, durable=True)
    graves = await channel.declare_queue(DEAD_LETTERS, durable=True, arguments={"x-queue-type": "quorum"})
    await graves.bind(dead)
    exchange = await channel.declare_exchange(EXCHANGE, ExchangeType.TOPIC, durable=True)
    for queue in (OBSERVATIONS, VIEWS):
        declared = await channel.declare_queue(queue.name, durable=True, arguments={**_ARGUMENTS})
        await declared.bind(exchange, queue.routing_key)
    return exchange
