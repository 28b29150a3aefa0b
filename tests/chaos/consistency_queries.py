"""What PostgreSQL and RabbitMQ say in the end, held against what was acknowledged."""

from collections import Counter
from collections.abc import Sequence

import aio_pika

from gateway.devstack.stack import Devstack
from tests.chaos.clients import Written

DEAD_LETTERS = "gateway.dead-letters"


async def counts(servers: Devstack, places: Sequence[int]) -> Counter[int]:
    """How many observations the worker has counted, by place."""
    async with servers.postgresql.superuser("gateway") as connection:
        rows = await connection.fetch("SELECT id, observation_count FROM places WHERE id = ANY($1)", places)
    return Counter({row["id"]: row["observation_count"] for row in rows})


async def any_places(servers: Devstack, number: int) -> list[int]:
    async with servers.postgresql.superuser("gateway") as connection:
        return [row["id"] for row in await connection.fetch("SELECT id FROM places ORDER BY id LIMIT $1", number)]


async def outbox(servers: Devstack) -> int:
    """How many events wait to be published."""
    async with servers.postgresql.superuser("gateway") as connection:
        return int(await connection.fetchval("SELECT count(*) FROM outbox"))


async def dead_letters(servers: Devstack) -> int:
    async with await aio_pika.connect(servers.rabbitmq.url) as connection:
        queue = await (await connection.channel()).declare_queue(DEAD_LETTERS, passive=True)
        return queue.declaration_result.message_count or 0


async def misfiled(servers: Devstack, written: Written) -> list[str]:
    """What was acknowledged and is not in the database once, as it was acknowledged."""
    async with servers.postgresql.superuser("gateway") as connection:
        rows = await connection.fetch(
            "SELECT id, place_id, note FROM observations WHERE note = ANY($1)", list(written.ids)
        )
    there: dict[str, list[tuple[int, int]]] = {}
    for row in rows:
        there.setdefault(row["note"], []).append((row["id"], row["place_id"]))
    return [
        f"{note}: acknowledged as {number}, there are {there.get(note, [])}"
        for note, number in written.ids.items()
        if there.get(note) != [(number, written.places[note])]
    ]
