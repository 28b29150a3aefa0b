"""The weather of a brief: fresh for a minute, better stale than none for a day, and asked for no more often than needed."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.briefs.circuit_breaker import FAILURES, PROBE_EVERY
from gateway.briefs.service import CALL_WITHIN
from gateway.briefs.weather_cache import FRESH_FOR, WeatherCache
from gateway.devstack.open_meteo import Faults
from gateway.devstack.stack import Devstack
from gateway.devstack.weather import WeatherServer
from gateway.settings import Settings
from tests.end_to_end.conftest import CALL_TIMEOUT, LATE
from tests.end_to_end.harness import ZURICH, Running, running
from tests.support.waiting import TIMEOUT, wait_until

BRIEF = f"/v1/places/{ZURICH}/brief"
KEY = f"weather:{ZURICH}"


@pytest.fixture(autouse=True)
async def redis(servers: Devstack) -> AsyncIterator[Redis]:
    async with Redis.from_url(servers.redis.url) as client:
        await client.flushdb()
        yield client


@pytest.fixture(autouse=True)
def no_write_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weather is written to Redis however busy the machine is."""
    monkeypatch.setattr("gateway.briefs.weather_cache.KEEP_WITHIN", TIMEOUT)


@pytest.fixture(autouse=True)
async def upstream(weather: WeatherServer) -> WeatherServer:
    """The upstream, its calls counted from zero, and without faults (see the fixture `weather`)."""
    await weather.reset_calls()
    return weather


async def weather_of(gateway: Running) -> dict[str, Any]:
    response = await gateway.client.get(BRIEF)
    section: dict[str, Any] = response.json()["sections"]["weather"]
    assert ("weather" in response.headers.get("Gateway-Stale", "")) == (section["status"] == "stale")
    return section


async def kept(redis: Redis) -> dict[str, Any]:
    """What Redis keeps of the weather, once it does."""

    async def there() -> bool:
        return bool(await redis.exists(KEY))

    await wait_until(there, "the weather is kept")
    content: dict[str, Any] = json.loads(await redis.get(KEY) or b"")
    return content


async def let_it_age(redis: Redis, seconds: float) -> None:
    forecast = await kept(redis)
    await redis.set(KEY, json.dumps(forecast | {"fetched_at": forecast["fetched_at"] - seconds}))


async def test_it_is_asked_for_once_a_minute(gateway: Running, upstream: WeatherServer, redis: Redis) -> None:
    first = await weather_of(gateway)
    await kept(redis)
    second = await weather_of(gateway)

    assert (first["status"], second["status"]) == ("ok", "ok")
    assert second["data"] == first["data"]
    assert (await upstream.calls()).calls == 1
    assert 0 < second["age_s"] < FRESH_FOR


async def test_it_is_kept_for_a_day(gateway: Running, redis: Redis) -> None:
    before = time.time()
    await weather_of(gateway)
    after = time.time()
    forecast = await kept(redis)

    assert before <= forecast["fetched_at"] <= after
    assert 86_000 < await redis.ttl(KEY) <= 86_400


async def test_after_a_minute_one_asks_again_and_the_others_are_answered_meanwhile(
    gateway: Running, upstream: WeatherServer, redis: Redis, release_forecasts: asyncio.Event
) -> None:
    release_forecasts.set()
    await weather_of(gateway)
    await let_it_age(redis, 61)
    release_forecasts.clear()
    revalidating = asyncio.create_task(weather_of(gateway))

    async def asked() -> bool:
        return (await upstream.calls()).calls == 2

    await wait_until(asked, "one asks again")
    meanwhile = await weather_of(gateway)
    assert not revalidating.done(), "nobody else waits"
    release_forecasts.set()
    news = await revalidating

    assert (meanwhile["status"], meanwhile["reason"]) == ("stale", None)
    assert 61 <= meanwhile["age_s"] < 61 + FRESH_FOR
    assert (news["status"], news["age_s"] < FRESH_FOR) == ("ok", True)
    assert (await weather_of(gateway))["status"] == "ok"
    assert (await upstream.calls()).calls == 2


async def test_many_who_want_the_same_share_one_call(gateway: Running, upstream: WeatherServer) -> None:
    await upstream.set_faults(Faults(latency_s=1))
    sections = await asyncio.gather(*(weather_of(gateway) for _ in range(50)))

    assert {section["status"] for section in sections} == {"ok"}
    assert (await upstream.calls()).calls == 1


FAULTS = {
    "error": (Faults(status=500), "error"),
    "garbage": (Faults(body="garbage"), "error"),
    "slow": (Faults(latency_s=CALL_TIMEOUT), "timeout"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_when_upstream_fails_it_is_stale_for_up_to_a_day(
    gateway_with_deadline: Running, upstream: WeatherServer, redis: Redis, fault: str
) -> None:
    gateway = gateway_with_deadline
    faults, reason = FAULTS[fault]
    await weather_of(gateway)
    await let_it_age(redis, 80_000)
    await upstream.set_faults(faults)
    began = time.monotonic()
    section = await weather_of(gateway)
    outlook = (await gateway.client.get(BRIEF)).json()["sections"]["outlook"]
    took = time.monotonic() - began

    assert (section["status"], section["reason"]) == ("stale", reason)
    assert section["data"] is not None
    assert 80_000 <= section["age_s"] < 80_000 + FRESH_FOR
    assert took < LATE
    assert outlook["status"] == "stale"
    assert outlook["age_s"] >= 80_000


async def test_older_than_a_day_it_is_as_good_as_none(gateway: Running, upstream: WeatherServer, redis: Redis) -> None:
    await weather_of(gateway)
    await let_it_age(redis, 86_401)
    await upstream.set_faults(Faults(status=500))

    assert (await weather_of(gateway))["status"] == "unavailable"


FOREIGN: dict[str, Any] = {
    "no JSON": b"\xff\x00 garbage",
    "other JSON": b'{"something": "else"}',
    "deep JSON": b"[" * 100_000,
    "of the future": None,
    "not finite": None,
    "a code of many digits": None,
    "larger than ours": None,
    "a list": None,
}


@pytest.mark.parametrize("content", FOREIGN)
async def test_what_is_no_forecast_of_ours_is_a_miss(
    gateway: Running, upstream: WeatherServer, redis: Redis, content: str
) -> None:
    await weather_of(gateway)
    ours = await kept(redis)
    await redis.delete(KEY)
    if content == "a list":
        await redis.lpush(KEY, "x")
    elif content == "of the future":
        await redis.set(KEY, json.dumps(ours | {"fetched_at": time.time() + 60}))
    elif content == "not finite":
        await redis.set(KEY, json.dumps(ours | {"fetched_at": float("nan")}))
    elif content == "a code of many digits":
        await redis.set(KEY, json.dumps(ours | {"weather": ours["weather"] | {"weather_code": 10**30}}))
    elif content == "larger than ours":
        await redis.set(KEY, json.dumps(ours) + " " * 5000)
    else:
        await redis.set(KEY, FOREIGN[content])
    section = await weather_of(gateway)

    assert (section["status"], section["reason"]) == ("ok", None)
    assert section["age_s"] < FRESH_FOR
    assert (await upstream.calls()).calls == 2


@pytest.mark.parametrize("how", ["stopped", "suspended"])
async def test_without_redis_upstream_is_asked_within_the_deadline(
    gateway_with_deadline: Running, servers: Devstack, redis: Redis, how: str
) -> None:
    gateway = gateway_with_deadline
    await gateway.client.get(BRIEF)
    await redis.flushdb()
    if how == "suspended":
        with servers.redis.suspended():
            began = time.monotonic()
            section = await weather_of(gateway)
            took = time.monotonic() - began
    else:
        await servers.redis.stop()
        try:
            began = time.monotonic()
            section = await weather_of(gateway)
            took = time.monotonic() - began
        finally:
            await servers.redis.start()

    assert section["status"] == "ok"
    assert took < LATE


async def test_an_upstream_that_keeps_failing_is_left_alone_and_asked_again_once_it_is_back(
    gateway: Running, upstream: WeatherServer
) -> None:
    await upstream.set_faults(Faults(status=500))
    for _ in range(FAILURES):
        assert (await weather_of(gateway))["reason"] == "error"
    began = time.monotonic()
    calls = (await upstream.calls()).calls
    for _ in range(20):
        section = await weather_of(gateway)
        assert (section["status"], section["reason"]) == ("unavailable", "open")
    most_probes = 1 + (time.monotonic() - began) / (0.8 * PROBE_EVERY)
    assert (await upstream.calls()).calls - calls <= most_probes, "of twenty briefs none asks upstream"

    async def probed() -> bool:
        return (await upstream.calls()).calls >= calls + 2

    await wait_until(probed, "it is probed")
    await upstream.set_faults(Faults())
    calls = (await upstream.calls()).calls

    async def ok() -> bool:
        return bool((await weather_of(gateway))["status"] == "ok")

    await wait_until(ok, "it is asked again")
    assert (await upstream.calls()).calls - calls <= 2, "the first probe that is answered ends it"


def test_an_upstream_that_is_back_is_asked_within_two_seconds() -> None:
    """A probe that began just before its return may take all its time; the next one is answered."""
    assert CALL_WITHIN + PROBE_EVERY < 2


async def test_with_a_dead_upstream_nobody_waits(settings: Settings, upstream: WeatherServer) -> None:
    """Each of ten briefs would have to wait for `timeout`, and then say so."""
    timeout = 2.0
    async with running(settings.model_copy(update={"brief_timeout": timeout})) as gateway:
        with upstream.suspended():
            await asyncio.gather(*(gateway.client.get(f"/v1/places/{place}/brief") for place in PLACES))

            async def is_left_alone() -> bool:
                return bool((await weather_of(gateway))["reason"] == "open")

            await wait_until(is_left_alone, "upstream is left alone")
            began = time.monotonic()
            sections = [await weather_of(gateway) for _ in range(10)]
            took = time.monotonic() - began

    assert {section["reason"] for section in sections} == {"open"}
    assert took < 10 * timeout / 2


PLACES = (2657896, 2661552, 2660646, 2659994, 2661604, 2657970)
"""Zürich, Bern, Genève, Lausanne, Basel, Winterthur."""


async def test_a_rush_that_has_to_wait_for_us_is_no_reason_to_leave_upstream_alone(
    settings: Settings, upstream: WeatherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten times two calls of 0.3 s: the last wait longer for their turn than a call may take, and that is not upstream's fault."""
    monkeypatch.setattr("gateway.briefs.weather_cache.CALLS", 2)
    await upstream.set_faults(Faults(latency_s=0.3))
    async with running(settings.model_copy(update={"brief_timeout": 2.0})) as gateway:
        places = (await gateway.client.get("/v1/places", params={"limit": 20})).json()["items"]
        ids = [place["id"] for place in places]
        await gateway.client.get("/v1/briefs", params={"place": ids})

        async def all_were_asked_for() -> bool:
            return (await upstream.calls()).calls == len(ids)

        await wait_until(all_were_asked_for, "the weather of each was asked for")

        async def all_are_there() -> bool:
            response = await gateway.client.get("/v1/briefs", params={"place": ids})
            assert "open" not in response.headers.get("Gateway-Incomplete", "")
            return bool(response.json()["items"][-1]["complete"]) and response.headers["Gateway-Complete"] == "true"

        await wait_until(all_are_there, "the weather of each is there")


async def test_a_lost_connection_is_tried_again(gateway: Running, upstream: WeatherServer) -> None:
    """One call of two is answered with 503: nobody was there to ask, as when a proxy restarts what is behind it."""
    await upstream.set_faults(Faults(status=503, fail_rate=0.5))
    for place in PLACES:
        brief = (await gateway.client.get(f"/v1/places/{place}/brief")).json()
        assert brief["sections"]["weather"]["status"] == "ok"


async def test_nobody_waits_for_it_to_be_kept(
    gateway: Running, upstream: WeatherServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written to Redis after the answer; who comes meanwhile has it from the one who fetched it."""
    writing = asyncio.Event()

    async def write_for_ever(*_: object) -> None:
        writing.set()
        await asyncio.Event().wait()

    monkeypatch.setattr("gateway.briefs.weather_cache.KEEP_WITHIN", 3600)  # a brief that waited for it would be late
    monkeypatch.setattr(WeatherCache, "_write", write_for_ever)
    first = await weather_of(gateway)
    await asyncio.wait_for(writing.wait(), TIMEOUT)
    second = await weather_of(gateway)

    assert (first["status"], second["status"]) == ("ok", "ok")
    assert (await upstream.calls()).calls == 1
