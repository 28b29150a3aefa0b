"""The weather of a brief: fresh for a minute, stale for up to a day, and fetched from upstream no more often than needed."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.api.briefs import MAX_PLACES
from gateway.briefs.circuit_breaker import FAILURE_THRESHOLD, PROBE_INTERVAL
from gateway.briefs.service import BACKEND_CALL_TIMEOUT
from gateway.briefs.weather_cache import FRESH_TTL, WeatherCache
from gateway.devstack.open_meteo import Faults
from gateway.devstack.redis import RedisServer
from gateway.devstack.stack import Devstack
from gateway.devstack.weather import WeatherServer
from gateway.settings import Settings
from tests.end_to_end.conftest import CALL_TIMEOUT, MAX_RESPONSE_TIME
from tests.end_to_end.harness import ZURICH, RunningGateway, running_gateway
from tests.support.waiting import TIMEOUT, wait_until

BRIEF = f"/v1/places/{ZURICH}/brief"
CACHE_KEY = f"weather:{ZURICH}"
PLACES = (2657896, 2661552, 2660646, 2659994, 2661604, 2657970)  # Zürich, Bern, Genève, Lausanne, Basel, Winterthur
DAY = 86_400


@pytest.fixture(autouse=True)
async def redis(servers: Devstack) -> AsyncIterator[Redis]:
    async with Redis.from_url(servers.redis.url) as client:
        await client.flushdb()
        yield client


@pytest.fixture(autouse=True)
def no_write_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weather is written to Redis even if the machine is busy."""
    monkeypatch.setattr("gateway.briefs.weather_cache.CACHE_WRITE_TIMEOUT", TIMEOUT)


@pytest.fixture(autouse=True)
async def upstream(weather: WeatherServer) -> WeatherServer:
    """The upstream without faults (see the fixture `weather`), with its calls counted from zero."""
    await weather.reset_calls()
    return weather


async def request_weather(gateway: RunningGateway) -> dict[str, Any]:
    """Request a brief and return its weather section; assert that the header `Gateway-Stale` agrees with it."""
    response = await gateway.client.get(BRIEF)
    section: dict[str, Any] = response.json()["sections"]["weather"]
    assert ("weather" in response.headers.get("Gateway-Stale", "")) == (section["status"] == "stale")
    return section


async def cached_forecast(redis: Redis) -> dict[str, Any]:
    """Wait until Redis has the forecast, and return it."""

    async def is_cached() -> bool:
        return bool(await redis.exists(CACHE_KEY))

    await wait_until(is_cached, "the forecast is cached")
    content: dict[str, Any] = json.loads(await redis.get(CACHE_KEY) or b"")
    return content


async def age_forecast(redis: Redis, seconds: float) -> None:
    """Make the cached forecast older."""
    forecast = await cached_forecast(redis)
    await redis.set(CACHE_KEY, json.dumps(forecast | {"fetched_at": forecast["fetched_at"] - seconds}))


async def test_fresh_weather_is_cached(gateway: RunningGateway, upstream: WeatherServer, redis: Redis) -> None:
    """Within a minute, a second brief has the cached weather, and upstream is not called again."""
    first = await request_weather(gateway)
    await cached_forecast(redis)
    second = await request_weather(gateway)

    assert (first["status"], second["status"]) == ("ok", "ok")
    assert second["data"] == first["data"]
    assert (await upstream.calls()).calls == 1
    assert 0 < second["age_s"] < FRESH_TTL


async def test_forecast_is_cached_for_a_day(gateway: RunningGateway, redis: Redis) -> None:
    """The cached forecast has the time of its fetch, and expires after a day."""
    before = time.time()
    await request_weather(gateway)
    after = time.time()
    forecast = await cached_forecast(redis)

    assert before <= forecast["fetched_at"] <= after
    assert DAY - 400 < await redis.ttl(CACHE_KEY) <= DAY


async def test_one_request_revalidates(
    gateway: RunningGateway, upstream: WeatherServer, redis: Redis, release_forecasts: asyncio.Event
) -> None:
    """After a minute, one request waits for a new forecast; the others receive the stale one without waiting."""
    release_forecasts.set()
    await request_weather(gateway)
    await age_forecast(redis, 61)
    release_forecasts.clear()
    revalidating = asyncio.create_task(request_weather(gateway))

    async def upstream_is_called_again() -> bool:
        return (await upstream.calls()).calls == 2

    await wait_until(upstream_is_called_again, "upstream is called again")
    stale = await request_weather(gateway)
    assert not revalidating.done(), "the other request has not waited for the forecast"
    release_forecasts.set()
    fresh = await revalidating

    assert (stale["status"], stale["reason"]) == ("stale", None)
    assert 61 <= stale["age_s"] < 61 + FRESH_TTL
    assert (fresh["status"], fresh["age_s"] < FRESH_TTL) == ("ok", True)
    assert (await request_weather(gateway))["status"] == "ok"
    assert (await upstream.calls()).calls == 2


async def test_concurrent_requests_share_a_call(gateway: RunningGateway, upstream: WeatherServer) -> None:
    """50 concurrent requests for the weather of one place cause one call of upstream."""
    await upstream.set_faults(Faults(latency_s=1))
    sections = await asyncio.gather(*(request_weather(gateway) for _ in range(50)))

    assert {section["status"] for section in sections} == {"ok"}
    assert (await upstream.calls()).calls == 1


FAULTS = {
    "error": (Faults(status=500), "error"),
    "garbage": (Faults(body="garbage"), "error"),
    "slow": (Faults(latency_s=CALL_TIMEOUT), "timeout"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_stale_weather_if_upstream_fails(
    gateway_with_deadline: RunningGateway, upstream: WeatherServer, redis: Redis, fault: str
) -> None:
    """If upstream fails or is slow, weather and outlook are stale by the deadline, with their age and the reason."""
    gateway = gateway_with_deadline
    faults, reason = FAULTS[fault]
    await request_weather(gateway)
    await age_forecast(redis, 80_000)
    await upstream.set_faults(faults)
    started_at = time.monotonic()
    section = await request_weather(gateway)
    outlook = (await gateway.client.get(BRIEF)).json()["sections"]["outlook"]
    elapsed = time.monotonic() - started_at

    assert (section["status"], section["reason"]) == ("stale", reason)
    assert section["data"] is not None
    assert 80_000 <= section["age_s"] < 80_000 + FRESH_TTL
    assert elapsed < MAX_RESPONSE_TIME
    assert outlook["status"] == "stale"
    assert outlook["age_s"] >= 80_000


async def test_forecast_expires_after_a_day(gateway: RunningGateway, upstream: WeatherServer, redis: Redis) -> None:
    """A forecast that is older than a day is not used, also if upstream fails."""
    await request_weather(gateway)
    await age_forecast(redis, DAY + 1)
    await upstream.set_faults(Faults(status=500))

    assert (await request_weather(gateway))["status"] == "unavailable"


def change_fetch_time(forecast: dict[str, Any], fetched_at: float) -> bytes:
    return json.dumps(forecast | {"fetched_at": fetched_at}).encode()


def change_weather_code(forecast: dict[str, Any], code: int) -> bytes:
    return json.dumps(forecast | {"weather": forecast["weather"] | {"weather_code": code}}).encode()


# Functions that turn the valid cached forecast into invalid content of the cache.
INVALID: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "not JSON": lambda _: b"\xff\x00 garbage",
    "other JSON": lambda _: b'{"something": "else"}',
    "nested JSON": lambda _: b"[" * 100_000,
    "from the future": lambda forecast: change_fetch_time(forecast, time.time() + 60),
    "not finite": lambda forecast: change_fetch_time(forecast, float("nan")),
    "code of 31 digits": lambda forecast: change_weather_code(forecast, 10**30),
    "too large": lambda forecast: json.dumps(forecast).encode() + b" " * 5000,
}


@pytest.mark.parametrize("content", INVALID)
async def test_invalid_forecast_is_a_cache_miss(
    gateway: RunningGateway, upstream: WeatherServer, redis: Redis, content: str
) -> None:
    """Content of the cache that is not a valid forecast is ignored, and upstream is called."""
    await request_weather(gateway)
    await redis.set(CACHE_KEY, INVALID[content](await cached_forecast(redis)))

    section = await request_weather(gateway)

    assert (section["status"], section["reason"]) == ("ok", None)
    assert section["age_s"] < FRESH_TTL
    assert (await upstream.calls()).calls == 2


async def test_key_of_another_type_is_a_cache_miss(
    gateway: RunningGateway, upstream: WeatherServer, redis: Redis
) -> None:
    """If the key of the cached forecast has a list, it is ignored, and upstream is called."""
    await request_weather(gateway)
    await cached_forecast(redis)
    await redis.delete(CACHE_KEY)
    await redis.lpush(CACHE_KEY, "x")

    section = await request_weather(gateway)

    assert (section["status"], section["reason"]) == ("ok", None)
    assert section["age_s"] < FRESH_TTL
    assert (await upstream.calls()).calls == 2


@asynccontextmanager
async def unresponsive(redis_server: RedisServer, outage: str) -> AsyncIterator[None]:
    if outage == "suspended":
        with redis_server.suspended():
            yield
    else:
        async with redis_server.stopped():
            yield


@pytest.mark.parametrize("outage", ["stopped", "suspended"])
async def test_weather_without_redis(
    gateway_with_deadline: RunningGateway, servers: Devstack, redis: Redis, outage: str
) -> None:
    """Without Redis, the weather comes from upstream, and the brief arrives by its deadline."""
    gateway = gateway_with_deadline
    await gateway.client.get(BRIEF)
    await redis.flushdb()
    async with unresponsive(servers.redis, outage):
        started_at = time.monotonic()
        section = await request_weather(gateway)
        elapsed = time.monotonic() - started_at

    assert section["status"] == "ok"
    assert elapsed < MAX_RESPONSE_TIME


async def open_circuit(gateway: RunningGateway, upstream: WeatherServer) -> None:
    """Let upstream fail until the circuit breaker is open."""
    await upstream.set_faults(Faults(status=500))
    for _ in range(FAILURE_THRESHOLD):
        assert (await request_weather(gateway))["reason"] == "error"


async def wait_for_probes(upstream: WeatherServer, count: int) -> None:
    """Wait until the circuit breaker has probed upstream again."""
    calls = (await upstream.calls()).calls

    async def is_probed() -> bool:
        return (await upstream.calls()).calls >= calls + count

    await wait_until(is_probed, f"upstream is probed {count} times")


async def test_open_circuit_only_probes(gateway: RunningGateway, upstream: WeatherServer) -> None:
    """After several failures, no brief calls upstream; the circuit breaker probes it in the background."""
    await open_circuit(gateway, upstream)
    started_at = time.monotonic()
    calls = (await upstream.calls()).calls
    for _ in range(20):
        section = await request_weather(gateway)
        assert (section["status"], section["reason"]) == ("unavailable", "open")
    max_probes = 1 + (time.monotonic() - started_at) / (0.8 * PROBE_INTERVAL)

    assert (await upstream.calls()).calls - calls <= max_probes
    await wait_for_probes(upstream, 2)


async def test_successful_probe_closes_the_circuit(gateway: RunningGateway, upstream: WeatherServer) -> None:
    """The first probe that succeeds closes the circuit breaker, and the next brief calls upstream."""
    await open_circuit(gateway, upstream)
    await wait_for_probes(upstream, 2)
    await upstream.set_faults(Faults())
    calls = (await upstream.calls()).calls

    async def weather_is_ok() -> bool:
        return bool((await request_weather(gateway))["status"] == "ok")

    await wait_until(weather_is_ok, "the brief has weather")

    assert (await upstream.calls()).calls - calls <= 2  # the probe and the brief


def test_circuit_closes_within_two_seconds() -> None:
    """When upstream recovers, the probe in flight may still time out, but the next one succeeds."""
    assert BACKEND_CALL_TIMEOUT + PROBE_INTERVAL < 2


async def test_open_circuit_fails_fast(settings: Settings, upstream: WeatherServer) -> None:
    """While the circuit breaker is open, briefs do not wait for an upstream that does not respond.

    Without it, each of the ten briefs would wait until its deadline.
    """
    brief_timeout = 2.0
    async with running_gateway(settings.model_copy(update={"brief_timeout": brief_timeout})) as gateway:
        with upstream.suspended():
            await asyncio.gather(*(gateway.client.get(f"/v1/places/{place}/brief") for place in PLACES))

            async def is_open() -> bool:
                return bool((await request_weather(gateway))["reason"] == "open")

            await wait_until(is_open, "the circuit breaker is open")
            started_at = time.monotonic()
            sections = [await request_weather(gateway) for _ in range(10)]
            elapsed = time.monotonic() - started_at

    assert {section["reason"] for section in sections} == {"open"}
    assert elapsed < 10 * brief_timeout / 2


async def test_queued_calls_are_not_failures(
    settings: Settings, upstream: WeatherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that waits for its turn in the gateway is not a failure of upstream, and does not open the circuit breaker.

    20 calls of 0.3 s, two at a time: the last ones wait longer than the timeout of a call.
    """
    monkeypatch.setattr("gateway.briefs.weather_fetcher.MAX_CONCURRENT_CALLS", 2)
    monkeypatch.setattr("gateway.briefs.places_per_call.MAX_PLACES_PER_CALL", 1)
    await upstream.set_faults(Faults(latency_s=0.3))
    async with running_gateway(settings.model_copy(update={"brief_timeout": 2.0})) as gateway:
        places = (await gateway.client.get("/v1/places", params={"limit": 20})).json()["items"]
        ids = [place["id"] for place in places]
        await gateway.client.get("/v1/briefs", params={"place": ids})

        async def all_are_fetched() -> bool:
            return (await upstream.calls()).calls == len(ids)

        await wait_until(all_are_fetched, "upstream is called for each place")

        async def all_are_complete() -> bool:
            response = await gateway.client.get("/v1/briefs", params={"place": ids})
            assert "open" not in response.headers.get("Gateway-Incomplete", "")
            return bool(response.json()["items"][-1]["complete"]) and response.headers["Gateway-Complete"] == "true"

        await wait_until(all_are_complete, "all briefs are complete")


async def test_unavailable_upstream_is_retried(gateway: RunningGateway, upstream: WeatherServer) -> None:
    """A call that fails with 503 is retried: proxies respond with it while the server behind them restarts."""
    await upstream.set_faults(Faults(status=503, fail_rate=0.5))
    for place in PLACES:
        brief = (await gateway.client.get(f"/v1/places/{place}/brief")).json()
        assert brief["sections"]["weather"]["status"] == "ok"


async def test_response_does_not_wait_for_the_cache(
    gateway: RunningGateway, upstream: WeatherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The response does not wait for the write to Redis; requests during the write share the forecast that was fetched."""
    writing = asyncio.Event()

    async def write_forever(*_: object) -> None:
        writing.set()
        await asyncio.Event().wait()

    # A brief that waits for the write would exceed its deadline.
    monkeypatch.setattr("gateway.briefs.weather_cache.CACHE_WRITE_TIMEOUT", 3600)
    monkeypatch.setattr(WeatherCache, "_write_to_redis", write_forever)
    first = await request_weather(gateway)
    await asyncio.wait_for(writing.wait(), TIMEOUT)
    second = await request_weather(gateway)

    assert (first["status"], second["status"]) == ("ok", "ok")
    assert (await upstream.calls()).calls == 1


async def test_hanging_writes_do_not_block_reads(gateway: RunningGateway, redis: Redis) -> None:
    """If Redis blocks writes, the weather of many places cannot be cached, but Redis is still read for their briefs."""
    places = (await gateway.client.get("/v1/places", params={"limit": 2 * MAX_PLACES})).json()["items"]
    ids = [place["id"] for place in places]
    await redis.client_pause(60_000, all=False)
    try:
        for batch in (ids[:MAX_PLACES], ids[MAX_PLACES:]):
            response = await gateway.client.get("/v1/briefs", params={"place": batch})
            assert response.headers["Gateway-Complete"] == "true"
    finally:
        await redis.client_unpause()
