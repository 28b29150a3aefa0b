"""The exchanges and queues in RabbitMQ: one exchange, a queue for each type of event, and one for dead letters."""

from dataclasses import dataclass

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractExchange

EXCHANGE = "gateway.events"
DEAD_LETTERS = "gateway.dead-letters"  # an exchange and a queue, for messages that were rejected or delivered too often
DELIVERY_LIMIT = (
    20  # deliveries of a message; a worker or broker that is killed with an unacknowledged message costs one
)


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue of events of one type. The type is the routing key."""

    name: str
    routing_key: str


OBSERVATIONS = Queue("gateway.observations", routing_key="observation.reported")
VIEWS = Queue("gateway.views", routing_key="brief.viewed")

_ARGUMENTS: dict[str, str | int] = {
    "x-queue-type": "quorum",
    "x-delivery-limit": DELIVERY_LIMIT,
    "x-dead-letter-exchange": DEAD_LETTERS,
    # A message leaves its queue only when the dead-letter queue has it. RabbitMQ requires `reject-publish` for that. It has
    # no other effect, because the queues have no length limit.
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}


async def declare(channel: AbstractChannel) -> AbstractExchange:
    """Create the exchanges and queues that are missing. Return the exchange for publishing."""
    dead_letter_exchange = await channel.declare_exchange(DEAD_LETTERS, ExchangeType.FANOUT, durable=True)
    dead_letter_queue = await channel.declare_queue(DEAD_LETTERS, durable=True, arguments={"x-queue-type": "quorum"})
    await dead_letter_queue.bind(dead_letter_exchange)
    exchange = await channel.declare_exchange(EXCHANGE, ExchangeType.TOPIC, durable=True)
    for queue in (OBSERVATIONS, VIEWS):
        declared = await channel.declare_queue(queue.name, durable=True, arguments={**_ARGUMENTS})
        await declared.bind(exchange, queue.routing_key)
    return exchange
