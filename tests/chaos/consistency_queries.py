"""The state of PostgreSQL and RabbitMQ after a run, for comparison with the acknowledgements."""

from collections import Counter
from collections.abc import Sequence

import aio_pika

from gateway.devstack.stack import Devstack
from tests.chaos.clients import AcknowledgedWrites

DEAD_LETTERS = "gateway.dead-letters"


async def observation_counts(servers: Devstack, places: Sequence[int]) -> Counter[int]:
    """Return the number of observations that the worker has counted, by place."""
    async with servers.postgresql.superuser("gateway") as connection:
        rows = await connection.fetch("SELECT id, observation_count FROM places WHERE id = ANY($1)", places)
    return Counter({row["id"]: row["observation_count"] for row in rows})


async def first_places(servers: Devstack, number: int) -> list[int]:
    """Return the ids of the first `number` places."""
    async with servers.postgresql.superuser("gateway") as connection:
        return [row["id"] for row in await connection.fetch("SELECT id FROM places ORDER BY id LIMIT $1", number)]


async def outbox_depth(servers: Devstack) -> int:
    """Return the number of events that are not published yet."""
    async with servers.postgresql.superuser("gateway") as connection:
        return int(await connection.fetchval("SELECT count(*) FROM outbox"))


async def dead_letter_count(servers: Devstack) -> int:
    async with await aio_pika.connect(servers.rabbitmq.url) as connection:
        queue = await (await connection.channel()).declare_queue(DEAD_LETTERS, passive=True)
        return queue.declaration_result.message_count or 0


async def wrong_or_missing(servers: Devstack, writes: AcknowledgedWrites) -> list[str]:
    """Return a line for each acknowledged observation that is not stored exactly once with its id and place."""
    async with servers.postgresql.superuser("gateway") as connection:
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
