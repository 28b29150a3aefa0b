"""The queries of a brief: their plan, their results, and the connections to Redis that they use."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.briefs import queries
from gateway.briefs.pinned_connections import PinnedConnections
from gateway.briefs.queries import CachedEntry, InvalidRowError
from gateway.devstack.redis import RedisServer
from gateway.devstack.stack import Devstack
from gateway.places.queries import Place
from gateway.resources.database import DatabaseEngine
from gateway.resources.redis import MAX_CONNECTIONS, RedisPool
from gateway.settings import DatabaseSettings, RedisSettings
from tests.support.waiting import TIMEOUT, wait_until

ZURICH, BERN = 2657896, 2661552

FIVE_OBSERVATIONS_FOR_SOME_PLACES = text("""
    INSERT INTO observations (place_id, temperature_c, condition)
    SELECT id, 12.5, 'rain' FROM (SELECT id FROM places ORDER BY id LIMIT 1000) AS some_places, generate_series(1, 5)
""")


class TestFetchPlaces:
    @pytest.fixture
    async def engine(self, servers: Devstack) -> AsyncIterator[AsyncEngine]:
        async with DatabaseEngine(DatabaseSettings(url=servers.postgresql.url), "queries").open() as engine:
            yield engine

    @pytest.fixture
    async def database(self, engine: AsyncEngine) -> AsyncIterator[PinnedConnections]:
        database = PinnedConnections(engine)
        yield database
        await database.close()

    async def test_plan_without_sorting(self, servers: Devstack) -> None:
        """The latest observations are read from an index, so that a place with 100,000 of them costs no more than others."""
        prepare = f"PREPARE brief(int[]) AS {queries._PLACES_WITH_OBSERVATIONS.replace('$1::INTEGER[]', '$1')}"
        owner = DatabaseEngine(DatabaseSettings(url=servers.postgresql.owner_url), "plan")
        async with owner.open() as engine, engine.connect() as connection:
            # The plan depends on the data. The rollback restores the rows of other tests.
            await connection.execute(text("TRUNCATE observations CASCADE"))
            await connection.execute(FIVE_OBSERVATIONS_FOR_SOME_PLACES)
            await connection.execute(text("ANALYZE observations"))
            await connection.exec_driver_sql(prepare)
            plan = await connection.exec_driver_sql(f"EXPLAIN (COSTS OFF) EXECUTE brief('{{{ZURICH}}}')")
            nodes = "\n".join(line for (line,) in plan)
            await connection.rollback()

        assert "Index Scan Backward using ix_observations_place_id_created_at_id on observations" in nodes
        assert "Index Scan using pk_places on places" in nodes
        assert "Sort" not in nodes

    async def test_missing_place(self, database: PinnedConnections) -> None:
        """Places that do not exist are left out."""
        places = await queries.fetch_places(database, [ZURICH, 1])
        records = await queries.fetch_places_with_observations(database, [ZURICH, 1])

        assert places[ZURICH].name == "Zürich"
        assert {*places} == {*records} == {ZURICH}
        assert records[ZURICH].place == places[ZURICH]

    async def test_invalid_observation(self, database: PinnedConnections, servers: Devstack) -> None:
        """A row that was edited by hand to an invalid value affects its own place only."""
        insert = (
            "INSERT INTO observations (place_id, temperature_c, condition, created_at) "
            "VALUES ($1, 1, 'rain', 'infinity')"
        )
        async with servers.postgresql.superuser("gateway") as superuser:
            await superuser.execute(insert, ZURICH)
            try:
                records = await queries.fetch_places_with_observations(database, [ZURICH, BERN])
            finally:
                await superuser.execute("DELETE FROM observations WHERE created_at = 'infinity'")

        assert isinstance(records[ZURICH].error, InvalidRowError)
        assert records[ZURICH].observations is None
        assert records[BERN].observations is not None


def test_long_text_is_not_cached() -> None:
    """A long list of observations is parsed, but not stored in the parse cache."""
    place = Place(1, "Bern", "Bern", "CH", "BE", 46.9, 7.4, 1, "Europe/Zurich", 0)
    note = "x" * queries.MAX_PARSE_CACHE_CHARS
    observation = {"id": 1, "place_id": 1, "temperature_c": 1, "condition": "rain", "note": note}
    times = {"created_at": "2026-11-28T00:00:00+00:00", "observed_at": None}
    latest = json.dumps([observation | times])
    before = queries._parse_cached.cache_info()
    record = queries._to_record(place, latest)

    assert record.observations is not None
    assert record.observations[0].note == note
    assert queries._parse_cached.cache_info() == before


class TestFetchCached:
    @pytest.fixture
    async def redis(self, redis_server: RedisServer) -> AsyncIterator[Redis]:
        async with RedisPool(RedisSettings.model_validate({"url": redis_server.url}), "queries").open() as redis:
            await redis.flushdb()
            yield redis
            assert self.in_use(redis) == 0

    @staticmethod
    def in_use(redis: Redis) -> int:
        """Return how many connections are checked out of the pool."""
        pool: Any = redis.connection_pool
        return len(pool._in_use_connections)

    async def test_values(self, redis: Redis) -> None:
        """Values are bytes. A key that does not exist, or is not a string, has none."""
        await redis.set("weather:1", "ä")
        await redis.set("popularity:1", 7)
        await redis.lpush("weather:2", "a list")

        assert await queries.fetch_cached(redis, [1, 2]) == {
            1: CachedEntry("ä".encode(), b"7"),
            2: CachedEntry(None, None),
        }

    async def test_concurrent_commands(self, redis: Redis) -> None:
        """Commands that run at the same time each get their own response."""
        await redis.mset({"popularity:1": 1, "popularity:2": 2})
        first, second = await asyncio.gather(queries.fetch_cached(redis, [1]), queries.fetch_cached(redis, [2]))

        assert first == {1: CachedEntry(None, b"1")}
        assert second == {2: CachedEntry(None, b"2")}

    async def test_closed_connection(self, redis: Redis, redis_server: RedisServer) -> None:
        """A connection that the server has closed is replaced, and fails no command."""
        before = await redis.client_id()
        pool: Any = redis.connection_pool
        (connection,) = [it for it in pool._available_connections if it.is_connected]
        async with Redis.from_url(redis_server.url) as other:
            await other.client_kill_filter(_id=str(before))
        await wait_until(connection.can_read, "the end of the connection has arrived")

        assert await queries.fetch_cached(redis, [1]) == {1: CachedEntry(None, None)}
        assert await redis.client_id() != before

    async def test_cancelled_caller(self, redis: Redis, redis_server: RedisServer) -> None:
        """A cancelled caller leaves no unread response to the next caller, and no connection checked out."""
        await redis.mset({"popularity:1": 1, "popularity:2": 2})
        with redis_server.suspended(), pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await queries.fetch_cached(redis, [1])

        assert self.in_use(redis) == 0
        assert await queries.fetch_cached(redis, [2]) == {2: CachedEntry(None, b"2")}

    async def test_failed_command(self, redis: Redis) -> None:
        """A failed command leaves no connection checked out."""
        client: Any = redis
        user = await client.acl_whoami()
        await client.execute_command("ACL", "SETUSER", user, "-mget")
        try:
            with pytest.raises(NoPermissionError):
                await queries.fetch_cached(redis, [1])
        finally:
            await client.execute_command("ACL", "SETUSER", user, "+mget")

        assert self.in_use(redis) == 0
        assert await queries.fetch_cached(redis, [1]) == {1: CachedEntry(None, None)}

    async def test_exhausted_pool(self, redis: Redis) -> None:
        """Ten concurrent commands succeed if the pool has one connection left."""
        pool: Any = redis.connection_pool
        taken = [await pool.get_connection() for _ in range(MAX_CONNECTIONS - 1)]
        async with asyncio.timeout(TIMEOUT):
            results = await asyncio.gather(*(queries.fetch_cached(redis, [1]) for _ in range(10)))
            assert await redis.ping()
        for connection in taken:
            await pool.release(connection)

        assert len(results) == 10
