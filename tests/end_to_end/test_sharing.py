"""Concurrent briefs share statements, commands and calls, but do not affect the responses of each other."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, TypeVar

import asyncpg
import pytest
from redis.asyncio import Redis
from starlette.types import ASGIApp, Message, Scope

from gateway.devstack.open_meteo import CallCounts, Faults
from gateway.devstack.stack import Devstack
from gateway.devstack.weather import WeatherServer
from gateway.settings import DatabaseSettings, RedisSettings, Settings
from tests.end_to_end.conftest import MAX_RESPONSE_TIME
from tests.end_to_end.harness import ZURICH, RunningGateway, running_gateway
from tests.support.waiting import TIMEOUT, wait_until

PLACES = [2657896, 2661552, 2660646, 2659994, 2661604, 2657970]  # Zürich, Bern, Genève, Lausanne, Basel, Winterthur
UNKNOWN_PLACE = 1

SHORT_BRIEF_TIMEOUT = 0.5
LONG_DELAY = 1.5  # of a reply: longer than a brief waits
LONG_DELAY_INTERVAL = 20  # replies from one long delay to the next
MAX_ROUNDS = 50


@pytest.fixture(autouse=True)
async def redis(servers: Devstack) -> AsyncIterator[Redis]:
    async with Redis.from_url(servers.redis.url) as client:
        await client.flushdb()
        yield client


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that the gateway sends to PostgreSQL with `fetch`, as the briefs do."""
    sent: list[str] = []
    fetch = asyncpg.Connection.fetch

    def fetch_and_record(connection: asyncpg.Connection, query: str, *arguments: object) -> object:
        sent.append(query)
        return fetch(connection, query, *arguments)

    monkeypatch.setattr(asyncpg.Connection, "fetch", fetch_and_record)
    return sent


async def mget_count(redis: Redis) -> int:
    """Return the number of MGET commands that Redis has processed."""
    return int((await redis.info("commandstats")).get("cmdstat_mget", {"calls": 0})["calls"])


class DisconnectingClient:
    """Sends a GET request to an ASGI app, and can disconnect before the response."""

    def __init__(self, app: ASGIApp, path: str) -> None:
        self._disconnected = asyncio.Event()
        self._sent = False
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "headers": [],
            "query_string": b"",
            "http_version": "1.1",
        }
        self.request = asyncio.create_task(self._call(app, scope))

    def disconnect(self) -> None:
        self._disconnected.set()

    async def _call(self, app: ASGIApp, scope: Scope) -> None:
        await app(scope, self._receive, self._discard)

    async def _receive(self) -> Message:
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._disconnected.wait()
        return {"type": "http.disconnect"}

    async def _discard(self, message: Message) -> None:
        """Ignore a message of the response."""


async def test_one_request_for_many_places(
    gateway: RunningGateway, statements: list[str], redis: Redis, weather: WeatherServer
) -> None:
    """A request for 20 briefs costs one statement, one read of Redis and one call of upstream, in the order of the request."""
    places = (await gateway.client.get("/v1/places", params={"limit": 20})).json()["items"]
    ids = [place["id"] for place in places]
    statements.clear()
    await weather.reset_calls()
    before = await mget_count(redis)

    response = await gateway.client.get("/v1/briefs", params={"place": ids})

    assert [brief["place"]["id"] for brief in response.json()["items"]] == ids
    assert response.headers["Gateway-Complete"] == "true"
    assert len(statements) == 1
    assert await mget_count(redis) - before == 1
    assert await weather.calls() == CallCounts(calls=1, places=20)


async def test_many_requests_share_statements(settings: Settings, statements: list[str], redis: Redis) -> None:
    """180 concurrent requests for 60 places share statements and commands; one for each place would be 60 of both."""
    async with running_gateway(settings.model_copy(update={"brief_timeout": 10.0})) as gateway:
        places = (await gateway.client.get("/v1/places", params={"limit": 60})).json()["items"]
        ids = [place["id"] for place in places]
        for batch in (ids[:20], ids[20:40], ids[40:]):
            await gateway.client.get("/v1/briefs", params={"place": batch})  # caches the weather
        statements.clear()
        before = await mget_count(redis)

        responses = await asyncio.gather(*(gateway.client.get(f"/v1/places/{place}/brief") for place in ids * 3))

        assert len(statements) < 20
        assert await mget_count(redis) - before < 20
        assert {response.headers.get("Gateway-Complete") for response in responses} == {"true"}


async def test_duplicate_and_unknown_places(gateway: RunningGateway) -> None:
    """A place that is requested twice has one brief, at its first position; unknown places are listed."""
    places = [PLACES[1], UNKNOWN_PLACE, PLACES[0], PLACES[1]]
    response = await gateway.client.get("/v1/briefs", params={"place": places})

    assert response.status_code == 200
    assert [brief["place"]["id"] for brief in response.json()["items"]] == [PLACES[1], PLACES[0]]
    assert response.json()["unknown"] == [UNKNOWN_PLACE]


@pytest.mark.parametrize("places", [[], list(range(1, 22)), list(range(1, 1001)), [0], [-1], ["x"], [2**31], [1.5]])
async def test_invalid_places(gateway: RunningGateway, places: list[object]) -> None:
    """A request without places, with more than 20 or with an invalid ID gets a problem with a short body."""
    response = await gateway.client.get("/v1/briefs", params={"place": [str(place) for place in places]})

    assert response.status_code == 422
    assert response.headers["Content-Type"] == "application/problem+json"
    assert len(response.content) < 10_000


async def test_briefs_without_database(gateway_with_deadline: RunningGateway, servers: Devstack) -> None:
    """While PostgreSQL does not respond, a request for briefs gets a 503. Afterwards it succeeds."""
    gateway = gateway_with_deadline
    with servers.postgresql.suspended():
        response = await gateway.client.get("/v1/briefs", params={"place": PLACES})

    assert response.status_code == 503
    assert (await gateway.client.get("/v1/briefs", params={"place": PLACES})).status_code == 200


async def test_briefs_without_weather(gateway: RunningGateway, weather: WeatherServer) -> None:
    """If upstream fails, it is called once for all places, and the headers have the missing sections with their reasons."""
    await weather.set_faults(Faults(status=429))
    response = await gateway.client.get("/v1/briefs", params={"place": PLACES})

    assert response.headers["Gateway-Complete"] == "false"
    assert response.headers["Gateway-Incomplete"] == "weather;reason=error, outlook;reason=no_weather"
    assert (await weather.calls()).calls == 1


async def test_place_without_weather(gateway: RunningGateway, weather: WeatherServer) -> None:
    """If upstream has no forecast for one of several places, the others have their weather."""
    await weather.set_faults(Faults(null_place=1))
    response = await gateway.client.get("/v1/briefs", params={"place": PLACES})

    statuses = [brief["sections"]["weather"]["status"] for brief in response.json()["items"]]
    assert statuses == ["ok", "unavailable", "ok", "ok", "ok", "ok"]
    assert (await weather.calls()).calls == 1


async def test_upstream_without_lists(gateway: RunningGateway, weather: WeatherServer) -> None:
    """If upstream rejects lists of places, it is called for each place, and the briefs are complete."""
    await weather.set_faults(Faults(max_places=1))
    response = await gateway.client.get("/v1/briefs", params={"place": PLACES})

    assert response.headers["Gateway-Complete"] == "true"
    assert (await weather.calls()).calls == 1 + len(PLACES)


async def test_locked_observations(gateway_with_deadline: RunningGateway, servers: Devstack) -> None:
    """If the observations cannot be read before the deadline, only their section is missing."""
    gateway = gateway_with_deadline
    async with servers.postgresql.superuser("gateway") as connection, connection.transaction():
        await connection.execute("LOCK TABLE observations IN ACCESS EXCLUSIVE MODE")
        started_at = time.monotonic()
        response = await gateway.client.get(f"/v1/places/{ZURICH}/brief")
        elapsed = time.monotonic() - started_at

    assert response.headers["Gateway-Incomplete"] == "observations;reason=timeout"
    assert elapsed < MAX_RESPONSE_TIME
    assert (await gateway.client.get(f"/v1/places/{ZURICH}/brief")).headers["Gateway-Complete"] == "true"


async def test_disconnect_cancels_one_request_only(
    settings: Settings, weather: WeatherServer, release_forecasts: asyncio.Event
) -> None:
    """If one of two clients that wait for the same forecast disconnects, the other one still receives it."""
    async with running_gateway(settings.model_copy(update={"brief_timeout": 3 * TIMEOUT})) as gateway:
        disconnecting = DisconnectingClient(gateway.app, f"/v1/places/{ZURICH}/brief")
        waiting = asyncio.create_task(gateway.client.get(f"/v1/places/{ZURICH}/brief"))

        async def upstream_is_called() -> bool:
            return (await weather.calls()).calls == 1

        await wait_until(upstream_is_called, "upstream is called")
        disconnecting.disconnect()
        await wait_until(disconnecting.request.done, "the request of the disconnected client ends")
        assert not waiting.done()
        release_forecasts.set()
        response = await waiting

    assert response.headers["Gateway-Complete"] == "true"
    assert (await weather.calls()).calls == 1


async def store_distinct_data(servers: Devstack, expected: dict[int, int]) -> None:
    """Store the number of each place as its views and as the note of an observation."""
    async with servers.postgresql.superuser("gateway") as connection, Redis.from_url(servers.redis.url) as client:
        for place, number in expected.items():
            await client.set(f"popularity:{place}", number)
            await connection.execute(
                "INSERT INTO observations (place_id, temperature_c, condition, note) VALUES ($1, 0, 'fog', $2)",
                place,
                str(number),
            )


def assert_data_of_place(brief: dict[str, Any], place: int, number: int) -> None:
    """Assert that each section is missing, empty or has the data of this place."""
    sections = brief["sections"]
    assert brief["place"]["id"] == place
    assert sections["popularity"]["data"] in (None, {"views": number})
    for observation in sections["observations"]["data"] or []:
        assert observation["place_id"] == place
    if sections["observations"]["data"]:
        assert sections["observations"]["data"][0]["note"] == str(number)


Group = TypeVar("Group", DatabaseSettings, RedisSettings)


def with_port(group: Group, port: int, proxy_port: int) -> Group:
    """Return the settings with the port of the server replaced by that of a proxy."""
    url = group.url.get_secret_value().replace(f":{port}", f":{proxy_port}")
    return type(group)(**(dict(group) | {"url": url}))


@asynccontextmanager
async def delaying_proxy(port: int, rng: random.Random) -> AsyncIterator[int]:
    """Run a proxy that delays each reply by up to 20 ms, but some by `LONG_DELAY`. Yields its port."""
    replies = count(1)

    def delay() -> float:
        return LONG_DELAY if next(replies) % LONG_DELAY_INTERVAL == 0 else rng.uniform(0, 0.02)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: Callable[[], float]) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await asyncio.sleep(delay())
                writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, server_writer, lambda: 0), pump(server_reader, writer, delay))

    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.wait(tasks)


async def test_responses_are_never_mixed_up(servers: Devstack, settings: Settings) -> None:
    """A brief only has the data of its own place, even after late replies and cancelled requests.

    If a cancelled request left a reply unread, the next user of the pooled connection would receive it. The test makes
    that likely: 50 clients cancel requests at random moments, and proxies delay the replies of the servers.
    """
    rng = random.Random(7)  # noqa: S311 - a fixed seed; nothing secret
    expected = {place: number for number, place in enumerate(PLACES, start=1000)}
    await store_distinct_data(servers, expected)
    async with (
        delaying_proxy(servers.postgresql.port, rng) as database_port,
        delaying_proxy(servers.redis.port, rng) as redis_port,
    ):
        overrides = {
            "brief_timeout": SHORT_BRIEF_TIMEOUT,
            "database": with_port(settings.database, servers.postgresql.port, database_port),
            "redis": with_port(settings.redis, servers.redis.port, redis_port),
        }
        async with running_gateway(settings.model_copy(update=overrides)) as gateway:
            outcomes = Counter[str]()

            async def request_or_cancel(place: int) -> None:
                request = asyncio.create_task(gateway.client.get(f"/v1/places/{place}/brief"))
                await asyncio.wait({request}, timeout=rng.uniform(0.01, SHORT_BRIEF_TIMEOUT))
                if request.cancel():
                    outcomes["cancelled"] += 1
                    return
                response = request.result()
                if response.status_code == 200:
                    outcomes["complete" if response.headers["Gateway-Complete"] == "true" else "incomplete"] += 1
                    assert_data_of_place(response.json(), place, expected[place])
                else:
                    outcomes[str(response.status_code)] += 1

            async def run_client() -> None:
                for _ in range(10):
                    await request_or_cancel(rng.choice(PLACES))

            def has_enough_outcomes() -> bool:
                late = outcomes["incomplete"] + outcomes["503"]
                return outcomes["complete"] > 50 and late > 10 and outcomes["cancelled"] > 100

            # The speed of the machine decides how often each outcome occurs: continue until there are enough of each.
            rounds = 0
            while rounds < 2 or not has_enough_outcomes():
                rounds += 1
                assert rounds < MAX_ROUNDS, outcomes
                await asyncio.gather(*(run_client() for _ in range(50)))
