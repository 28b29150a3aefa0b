"""The servers that all contenders use, and the data in them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aio_pika
import asyncpg
from redis.asyncio import Redis

from benchmarks.workloads import NOTE, OBSERVATIONS, Place
from gateway.devstack import reaper
from gateway.devstack.folder import Reporter
from gateway.devstack.open_meteo import Faults
from gateway.devstack.stack import Devstack, devstack
from gateway.events.topology import declare
from gateway.places.seed import seed
from gateway.schema.migrate import migrate

FEW = 300
"""Places that warm briefs are asked of: few enough to have their weather fetched in a moment, too many to meet by chance."""

MANY = 30_000
"""Places that cold briefs are asked of, each once."""

DRAIN_LIMIT = 60.0
"""Seconds."""

_OBSERVE = """
INSERT INTO observations (place_id, temperature_c, condition, note, created_at)
SELECT place.id, 10 + hour, 'rain', $1, now() - hour * interval '1 hour'
FROM unnest($2::integer[]) AS place (id), generate_series(1, $3) AS hour
"""
_ENQUEUE = """
INSERT INTO outbox (event_id, type, body)
SELECT id, 'observation.reported', json_build_object('id', id, 'type', 'observation.reported', 'at', now(), 'data',
    json_build_object('observation_id', 1, 'place_id', $1::integer))
FROM (SELECT gen_random_uuid() AS id FROM generate_series(1, $2)) AS event
"""


class Backends:
    """The servers, and the places in them, the most populous first."""

    def __init__(self, servers: Devstack, places: list[Place]) -> None:
        self.servers = servers
        self.places = places

    @property
    def few(self) -> list[Place]:
        return self.places[:FEW]

    def pids(self) -> dict[str, list[int]]:
        """The processes whose CPU time is of interest, by what they serve."""
        folders = {
            "postgresql": self.servers.postgresql.folder,
            "redis": self.servers.redis.folder,
            "rabbitmq": self.servers.rabbitmq.folder,
            "upstream": self.servers.weather.folder,
        }
        return {name: reaper.find_processes(folder) for name, folder in folders.items()}

    async def forget_the_weather(self) -> None:
        """Let Redis keep no weather of anybody's."""
        async with Redis.from_url(self.servers.redis.url) as client:
            keys = [f"{whose}weather:{place.id}" for whose in ("", "peer:") for place in self.places]
            for at in range(0, len(keys), 10_000):
                await client.unlink(*keys[at : at + 10_000])

    @asynccontextmanager
    async def upstream_that_takes(self, seconds: float) -> AsyncIterator[None]:
        """Within the block the upstream takes so many seconds longer for an answer."""
        await self.servers.weather.set_faults(Faults(latency_s=seconds))
        try:
            yield
        finally:
            await self.servers.weather.set_faults(Faults())

    @asynccontextmanager
    async def outbox_of(self, depth: int) -> AsyncIterator[None]:
        """Within the block so many events wait, and the broker takes none."""
        with self.servers.rabbitmq.suspended():
            await self._in_database(_ENQUEUE, self.places[0].id, depth)
            yield
        await self._in_database("TRUNCATE outbox")

    async def until_the_outbox_is_empty(self) -> None:
        """Wait until the relay has published what was reported: it would be at work while others are measured."""
        async with asyncio.timeout(DRAIN_LIMIT), self.servers.postgresql.superuser("gateway") as connection:
            while await connection.fetchval("SELECT EXISTS (SELECT FROM outbox)"):  # noqa: ASYNC110 - a table sets no event
                await asyncio.sleep(0.05)

    async def observe(self) -> None:
        """Give every place its observations, all of the last hours."""
        await self._in_database(_OBSERVE, NOTE, [place.id for place in self.places], OBSERVATIONS)
        await self._in_database("ANALYZE")

    async def view(self) -> None:
        """Give every place the number of views that its answers have to show."""
        async with Redis.from_url(self.servers.redis.url) as client:
            await client.mset({f"popularity:{place.id}": place.views for place in self.places})

    async def _in_database(self, statement: str, *arguments: object) -> None:
        async with self.servers.postgresql.superuser("gateway") as connection:
            await connection.execute(statement, *arguments, timeout=60)


@asynccontextmanager
async def backends(*, report: Reporter) -> AsyncIterator[Backends]:
    """Start all servers, and fill them.

    Raises:
        DevstackError: one of them cannot be had.
    """
    async with devstack(report=report) as servers:
        await migrate(servers.postgresql.url)
        await seed(servers.postgresql.url)
        async with servers.postgresql.superuser("gateway") as connection:
            ours = Backends(servers, await _places(connection))
        await ours.observe()
        await ours.view()
        await _declare(servers.rabbitmq.url)
        yield ours


async def _places(connection: "asyncpg.Connection[asyncpg.Record]") -> list[Place]:
    rows = await connection.fetch("SELECT id FROM places ORDER BY population DESC, id LIMIT $1", MANY)
    return [Place(row["id"], views=row["id"] % 1000) for row in rows]


async def _declare(url: str) -> None:
    """Make the exchange and the queues, as all but the gateway expect to find them."""
    async with await aio_pika.connect(url) as connection:
        await declare(await connection.channel())
