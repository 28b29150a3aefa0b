"""The state of the database and of RabbitMQ after a run, for comparison with the acknowledgements."""

from collections import Counter
from collections.abc import Sequence

import aio_pika

from gateway.devstack.stack import Devstack
from tests.chaos.clients import AcknowledgedWrites
from tests.chaos.outages import POISON_TYPE
from tests.chaos.replicated_database import Database

DEAD_LETTERS = "gateway.dead-letters"


async def observation_counts(database: Database, places: Sequence[int]) -> Counter[int]:
    """Return the number of observations that the worker has counted, by place."""
    async with database.superuser("gateway") as connection:
        rows = await connection.fetch("SELECT id, observation_count FROM places WHERE id = ANY($1)", places)
    return Counter({row["id"]: row["observation_count"] for row in rows})


async def first_places(database: Database, number: int) -> list[int]:
    """Return the ids of the first `number` places."""
    async with database.superuser("gateway") as connection:
        return [row["id"] for row in await connection.fetch("SELECT id FROM places ORDER BY id LIMIT $1", number)]


async def outbox_depth(database: Database) -> int:
    """Return the number of events that are not published yet, without the poison rows."""
    async with database.superuser("gateway") as connection:
        return int(await connection.fetchval("SELECT count(*) FROM outbox WHERE type <> $1", POISON_TYPE))


async def poison_rows_without_an_attempt(database: Database) -> int:
    """Return the number of poison rows that no relay has tried to publish."""
    async with database.superuser("gateway") as connection:
        return int(
            await connection.fetchval("SELECT count(*) FROM outbox WHERE type = $1 AND attempts = 0", POISON_TYPE)
        )


async def dead_letter_count(servers: Devstack) -> int:
    async with await aio_pika.connect(servers.rabbitmq.url) as connection:
        queue = await (await connection.channel()).declare_queue(DEAD_LETTERS, passive=True)
        return queue.declaration_result.message_count or 0


async def has_consumer(servers: Devstack, queue: str) -> bool:
    """Return whether the queue exists and has a consumer."""
    try:
        async with await aio_pika.connect(servers.rabbitmq.url) as connection:
            declared = await (await connection.channel()).declare_queue(queue, passive=True)
            return bool(declared.declaration_result.consumer_count)
    except aio_pika.exceptions.ChannelNotFoundEntity:
        return False


async def wrong_or_missing(database: Database, writes: AcknowledgedWrites) -> list[str]:
    """Return a line for each acknowledged observation that is not stored exactly once with its id and place."""
    async with database.superuser("gateway") as connection:
        rows = await connection.fetch(
            "SELECT id, place_id, note FROM observations WHERE note = ANY($1)", list(writes.ids)
        )
    stored: dict[str, list[tuple[int, int]]] = {}
    for row in rows:
        stored.setdefault(row["note"], []).append((row["id"], row["place_id"]))
    return [
        f"{note}: acknowledged as {number}, stored as {stored.get(note, [])}"
        for note, number in writes.ids.items()
        if stored.get(note) != [(number, writes.places[note])]
    ]
