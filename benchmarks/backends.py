"""The servers that all contenders share, and the data in them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aio_pika
import asyncpg
from redis.asyncio import Redis

from benchmarks.workloads import NOTE, OBSERVATIONS_PER_PLACE, SeededPlace
from gateway.devstack import reaper
from gateway.devstack.folder import Reporter
from gateway.devstack.open_meteo import Faults
from gateway.devstack.postgresql import RUNTIME_ROLE
from gateway.devstack.stack import Devstack, devstack
from gateway.events.topology import declare
from gateway.places.seed import seed
from gateway.schema.migrate import migrate

WARM_PLACES = (
    300  # few enough to cache all their weather quickly, many enough that concurrent requests rarely share a place
)
COLD_PLACES = 30_000  # each of them is requested at most once in a measurement
DRAIN_TIMEOUT = 60.0
STATEMENT_TIMEOUT = 60

_KEYS_PER_UNLINK = 10_000

_INSERT_OBSERVATIONS = """
INSERT INTO observations (place_id, temperature_c, condition, note, created_at)
SELECT place.id, 10 + hour, 'rain', $1, now() - hour * interval '1 hour'
FROM unnest($2::integer[]) AS place (id), generate_series(1, $3) AS hour
"""


class Backends:
    """The servers and the places in the database, the most populous first."""

    def __init__(self, servers: Devstack, places: list[SeededPlace]) -> None:
        self.servers = servers
        self.places = places

    @property
    def warm_places(self) -> list[SeededPlace]:
        """The places of the cases with cached weather."""
        return self.places[:WARM_PLACES]

    @property
    def brief_path(self) -> str:
        """The path of a brief."""
        return f"/v1/places/{self.places[0].id}/brief"

    def pids(self) -> dict[str, list[int]]:
        """Return the process ids of each server."""
        folders = {
            "postgresql": self.servers.postgresql.folder,
            "redis": self.servers.redis.folder,
            "rabbitmq": self.servers.rabbitmq.folder,
            "upstream": self.servers.weather.folder,
        }
        return {name: reaper.find_processes(folder) for name, folder in folders.items()}

    async def clear_weather_cache(self) -> None:
        """Delete the cached weather of all contenders from Redis."""
        async with Redis.from_url(self.servers.redis.url) as client:
            keys = [f"{prefix}weather:{place.id}" for prefix in ("", "peer:") for place in self.places]
            for start in range(0, len(keys), _KEYS_PER_UNLINK):
                await client.unlink(*keys[start : start + _KEYS_PER_UNLINK])

    @asynccontextmanager
    async def delayed_upstream(self, delay: float) -> AsyncIterator[None]:
        """Delay each response of the upstream by `delay` seconds inside the block."""
        await self.servers.weather.set_faults(Faults(latency_s=delay))
        try:
            yield
        finally:
            await self.servers.weather.set_faults(Faults())

    async def wait_until_outbox_is_empty(self) -> None:
        """Wait until the relay has published all events, so that it uses no CPU time during the next case."""
        async with asyncio.timeout(DRAIN_TIMEOUT), self.servers.postgresql.superuser("gateway") as connection:
            while await connection.fetchval("SELECT EXISTS (SELECT FROM outbox)"):  # noqa: ASYNC110 - a table sets no event
                await asyncio.sleep(0.05)

    async def insert_observations(self) -> None:
        """Insert the latest observations of every place."""
        place_ids = [place.id for place in self.places]
        await self._execute(_INSERT_OBSERVATIONS, NOTE, place_ids, OBSERVATIONS_PER_PLACE)
        await self._execute("ANALYZE")

    async def set_view_counts(self) -> None:
        """Set the number of views of every place, which the load generator checks."""
        async with Redis.from_url(self.servers.redis.url) as client:
            await client.mset({f"popularity:{place.id}": place.views for place in self.places})

    async def _execute(self, statement: str, *arguments: object) -> None:
        async with self.servers.postgresql.superuser("gateway") as connection:
            await connection.execute(statement, *arguments, timeout=STATEMENT_TIMEOUT)


@asynccontextmanager
async def running_backends(*, report: Reporter) -> AsyncIterator[Backends]:
    """Start all servers, insert the data, and stop the servers after the block.

    Raises:
        DevstackError: a server does not start.
    """
    async with devstack(report=report) as servers:
        await migrate(servers.postgresql.owner_url, grant_to=RUNTIME_ROLE)
        await seed(servers.postgresql.owner_url)
        async with servers.postgresql.superuser("gateway") as connection:
            backends = Backends(servers, await _fetch_places(connection))
        await backends.insert_observations()
        await backends.set_view_counts()
        await _declare_topology(servers.rabbitmq.url)
        yield backends


async def _fetch_places(connection: "asyncpg.Connection[asyncpg.Record]") -> list[SeededPlace]:
    rows = await connection.fetch("SELECT id FROM places ORDER BY population DESC, id LIMIT $1", COLD_PLACES)
    return [SeededPlace(row["id"], views=row["id"] % 1000) for row in rows]


async def _declare_topology(url: str) -> None:
    """Declare the exchange and the queues: all contenders but the gateway expect them to exist."""
    async with await aio_pika.connect(url) as connection:
        await declare(await connection.channel())
