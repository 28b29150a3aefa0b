"""Briefs that are asked for together share what they cost; and none has to pay for another."""

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
from starlette.types import ASGIApp, Message, Receive, Scope

from gateway.devstack.open_meteo import Faults
from gateway.devstack.stack import Devstack
from gateway.devstack.weather import WeatherServer
from gateway.settings import DatabaseSettings, RedisSettings, Settings
from tests.end_to_end.conftest import LATE
from tests.end_to_end.harness import ZURICH, Running, running
from tests.support.waiting import TIMEOUT, wait_until

PLACES = [2657896, 2661552, 2660646, 2659994, 2661604, 2657970]
"""Zürich, Bern, Genève, Lausanne, Basel, Winterthur."""
NO_PLACE = 1
STALL_EVERY = 20  # of the servers' replies one comes later than anybody waits for it
MOST_ROUNDS = 50


@pytest.fixture(autouse=True)
async def redis(servers: Devstack) -> AsyncIterator[Redis]:
    async with Redis.from_url(servers.redis.url) as client:
        await client.flushdb()
        yield client


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Those that the briefs send to PostgreSQL."""
    sent: list[str] = []
    fetch = asyncpg.Connection.fetch

    def fetch_and_note(connection: asyncpg.Connection, query: str, *arguments: object) -> object:
        sent.append(query)
        return fetch(connection, query, *arguments)

    monkeypatch.setattr(asyncpg.Connection, "fetch", fetch_and_note)
    return sent


async def commands(redis: Redis) -> int:
    """How many MGETs Redis has had."""
    return int((await redis.info("commandstats")).get("cmdstat_mget", {"calls": 0})["calls"])


async def test_twenty_places_cost_one_statement_and_one_command(
    gateway: Running, statements: list[str], redis: Redis
) -> None:
    places = (await gateway.client.get("/v1/places", params={"limit": 20})).json()["items"]
    ids = [place["id"] for place in places]
    statements.clear()
    before = await commands(redis)
    response = await gateway.client.get("/v1/briefs", params={"place": ids})

    assert [brief["place"]["id"] for brief in response.json()["items"]] == ids
    assert response.headers["Gateway-Complete"] == "true"
    assert len(statements) == 1
    assert await commands(redis) - before == 1


async def test_requests_for_many_places_share_however_long_they_take(
    settings: Settings, statements: list[str], redis: Redis
) -> None:
    """A hundred and eighty, about sixty places: were each place asked for by itself, it would take sixty statements."""
    async with running(settings.model_copy(update={"brief_timeout": 10.0})) as gateway:
        places = (await gateway.client.get("/v1/places", params={"limit": 60})).json()["items"]
        ids = [place["id"] for place in places]
        for some in (ids[:20], ids[20:40], ids[40:]):
            await gateway.client.get("/v1/briefs", params={"place": some})  # so that the weather is there
        statements.clear()
        before = await commands(redis)
        responses = await asyncio.gather(*(gateway.client.get(f"/v1/places/{place}/brief") for place in ids * 3))

        assert len(statements) < 20
        assert await commands(redis) - before < 20
        assert {response.headers.get("Gateway-Complete") for response in responses} == {"true"}


async def test_each_place_comes_once_in_order_and_what_is_no_place_is_told(gateway: Running) -> None:
    asked = [PLACES[1], NO_PLACE, PLACES[0], PLACES[1]]
    response = await gateway.client.get("/v1/briefs", params={"place": asked})

    assert response.status_code == 200
    assert [brief["place"]["id"] for brief in response.json()["items"]] == [PLACES[1], PLACES[0]]
    assert response.json()["unknown"] == [NO_PLACE]


@pytest.mark.parametrize("places", [[], list(range(1, 22)), list(range(1, 1001)), [0], [-1], ["x"], [2**31], [1.5]])
async def test_no_place_too_many_and_what_is_no_id_are_problems(gateway: Running, places: list[object]) -> None:
    response = await gateway.client.get("/v1/briefs", params={"place": [str(place) for place in places]})

    assert response.status_code == 422
    assert response.headers["Content-Type"] == "application/problem+json"
    assert len(response.content) < 10_000


async def test_without_the_database_there_are_no_briefs(gateway_with_deadline: Running, servers: Devstack) -> None:
    gateway = gateway_with_deadline
    with servers.postgresql.suspended():
        response = await gateway.client.get("/v1/briefs", params={"place": PLACES})

    assert response.status_code == 503
    assert (await gateway.client.get("/v1/briefs", params={"place": PLACES})).status_code == 200


async def test_calls_upstream_are_bounded_and_the_headers_say_what_is_missing(
    gateway: Running, weather: WeatherServer
) -> None:
    await weather.set_faults(Faults(status=500))
    response = await gateway.client.get("/v1/briefs", params={"place": PLACES})

    assert response.headers["Gateway-Complete"] == "false"
    assert response.headers["Gateway-Incomplete"] == "weather;reason=error, outlook;reason=no_weather"
    assert (await weather.calls()).calls == len(PLACES)


async def test_observations_that_cannot_be_read_cost_their_section_only(
    gateway_with_deadline: Running, servers: Devstack
) -> None:
    gateway = gateway_with_deadline
    async with servers.postgresql.superuser("gateway") as connection, connection.transaction():
        await connection.execute("LOCK TABLE observations IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        response = await gateway.client.get(f"/v1/places/{ZURICH}/brief")
        took = time.monotonic() - began

    assert response.headers["Gateway-Incomplete"] == "observations;reason=timeout"
    assert took < LATE
    assert (await gateway.client.get(f"/v1/places/{ZURICH}/brief")).headers["Gateway-Complete"] == "true"


async def test_a_client_that_goes_away_cancels_its_own_work_and_nobody_elses(
    settings: Settings, weather: WeatherServer, release_forecasts: asyncio.Event
) -> None:
    """Two wait for the same weather; one goes. It is waited for by the other one only."""
    async with running(settings.model_copy(update={"brief_timeout": 3 * TIMEOUT})) as gateway:
        leaving = Client(gateway, f"/v1/places/{ZURICH}/brief")
        staying = asyncio.create_task(gateway.client.get(f"/v1/places/{ZURICH}/brief"))

        async def both_wait() -> bool:
            return (await weather.calls()).calls == 1

        await wait_until(both_wait, "the weather is asked for")
        leaving.goes()
        await wait_until(leaving.request.done, "who has gone does not wait for the weather")
        assert not staying.done()
        release_forecasts.set()
        response = await staying

    assert response.headers["Gateway-Complete"] == "true"
    assert (await weather.calls()).calls == 1


class Client:
    """Sends a request, and may go away before it has its answer."""

    def __init__(self, gateway: Running, path: str) -> None:
        self._gone = asyncio.Event()
        self._sent = False
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "headers": [],
            "query_string": b"",
            "http_version": "1.1",
        }
        self.request = asyncio.create_task(ask(gateway.app, scope, self._receive))

    def goes(self) -> None:
        self._gone.set()

    async def _receive(self) -> Message:
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}


async def ask(app: ASGIApp, scope: Scope, receive: Receive) -> None:
    async def nowhere(_: Message) -> None:
        """Whoever it was for has gone."""

    await app(scope, receive, nowhere)


async def test_no_answer_is_ever_handed_to_another_place(servers: Devstack, settings: Settings) -> None:
    """Fifty at a time, through proxies that delay what the servers say, and given up at any moment.

    Each place has what no other has: were a reply left on a connection, the next one to use that would have it.
    """
    chance = random.Random(7)  # noqa: S311 - the same chance each time
    expected = {place: number for number, place in enumerate(PLACES, start=1000)}
    await tell_apart(servers, expected)
    async with (
        delaying(servers.postgresql.port, chance) as database,
        delaying(servers.redis.port, chance) as redis_port,
    ):
        changed = {
            "database": through(settings.database, servers.postgresql.port, database),
            "redis": through(settings.redis, servers.redis.port, redis_port),
        }
        async with running(settings.model_copy(update={**changed, "brief_timeout": 0.5})) as gateway:
            outcomes = Counter[str]()

            async def ask_for(place: int) -> None:
                asking = asyncio.create_task(gateway.client.get(f"/v1/places/{place}/brief"))
                await asyncio.wait({asking}, timeout=chance.uniform(0.01, 0.5))
                if asking.cancel():
                    outcomes["given up"] += 1
                    return
                response = asking.result()
                outcomes[str(response.status_code)] += 1
                if response.status_code == 200:
                    outcomes[response.headers["Gateway-Complete"]] += 1
                    assert_of_that_place_only(response.json(), place, expected[place])

            async def ask_often() -> None:
                for _ in range(10):
                    await ask_for(chance.choice(PLACES))

            def enough() -> bool:
                late = outcomes["false"] + outcomes["503"]
                return outcomes["true"] > 50 and late > 10 and outcomes["given up"] > 100

            # How often each of them happens depends on the machine: go on until there is enough of each.
            rounds = 0
            while rounds < 2 or not enough():
                rounds += 1
                assert rounds < MOST_ROUNDS, outcomes
                await asyncio.gather(*(ask_often() for _ in range(50)))


async def tell_apart(servers: Devstack, expected: dict[int, int]) -> None:
    """Give each place views and an observation of its own."""
    async with servers.postgresql.superuser("gateway") as connection, Redis.from_url(servers.redis.url) as client:
        for place, number in expected.items():
            await client.set(f"popularity:{place}", number)
            await connection.execute(
                "INSERT INTO observations (place_id, temperature_c, condition, note) VALUES ($1, 0, 'fog', $2)",
                place,
                str(number),
            )


def assert_of_that_place_only(brief: dict[str, Any], place: int, number: int) -> None:
    sections = brief["sections"]
    assert brief["place"]["id"] == place
    assert sections["popularity"]["data"] in (None, {"views": number})
    for observation in sections["observations"]["data"] or []:
        assert observation["place_id"] == place
    if sections["observations"]["data"]:
        assert sections["observations"]["data"][0]["note"] == str(number)


Group = TypeVar("Group", DatabaseSettings, RedisSettings)


def through(group: Group, port: int, proxy: int) -> Group:
    """The settings of a resource that is reached through a proxy."""
    url = group.url.get_secret_value().replace(f":{port}", f":{proxy}")
    return type(group)(**(dict(group) | {"url": url}))


@asynccontextmanager
async def delaying(port: int, chance: random.Random) -> AsyncIterator[int]:
    """A proxy that delays what the server says, now a little, now for longer than anybody waits. Yields its port."""
    replies = count(1)

    def delay() -> float:
        return 1.5 if next(replies) % STALL_EVERY == 0 else chance.uniform(0, 0.02)

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
