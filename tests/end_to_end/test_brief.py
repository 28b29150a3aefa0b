"""The brief: complete when all is well, and true about what is not."""

import gc
import time

import httpx
import pytest
import redis.asyncio as redis

from gateway.devstack.open_meteo import Faults
from gateway.devstack.server import Server
from gateway.devstack.stack import Devstack
from gateway.devstack.weather import Weather
from gateway.settings import Settings
from tests.end_to_end.conftest import BRIEF_TIMEOUT, LATE
from tests.end_to_end.harness import ZURICH, Running, flush_redis, running
from tests.support.waiting import wait_until

BRIEF = f"/v1/places/{ZURICH}/brief"


@pytest.fixture(autouse=True)
async def nothing_is_kept(servers: Devstack) -> None:
    """No test finds the weather of another one."""
    await flush_redis(servers)


def reasons(response: httpx.Response) -> dict[str, str | None]:
    """The sections that are not ok, with their reasons; and that headers, flag and sections tell the same."""
    body = response.json()
    sections = body["sections"]
    missing = {name: section["reason"] for name, section in sections.items() if section["status"] == "unavailable"}
    assert body["complete"] == (not missing)
    assert response.headers["Gateway-Complete"] == ("false" if missing else "true")
    told = response.headers.get("Gateway-Incomplete", "")
    assert told == ", ".join(f"{name};reason={reason}" for name, reason in missing.items())
    assert all((section["data"] is None) == (name in missing) for name, section in sections.items())
    return missing


async def test_a_brief_joins_all_backends(gateway: Running, servers: Devstack) -> None:
    async with servers.postgresql.superuser("gateway") as connection:
        for number in range(6):
            await connection.execute(
                "INSERT INTO observations (place_id, temperature_c, condition, note) VALUES ($1, 12.5, 'rain', $2)",
                ZURICH,
                f"number {number}",
            )
    response = await gateway.client.get(BRIEF)

    assert reasons(response) == {}
    body = response.json()
    assert body["place"]["name"] == "Zürich"
    assert set(body["sections"]) == {"weather", "outlook", "observations", "popularity"}
    assert -40 < body["sections"]["weather"]["data"]["temperature_c"] < 50
    assert 0 < body["sections"]["outlook"]["data"]["wet_tomorrow_probability"] < 1
    notes = [observation["note"] for observation in body["sections"]["observations"]["data"]]
    assert notes == [f"number {number}" for number in (5, 4, 3, 2, 1)]
    assert body["sections"]["popularity"]["data"] == {"views": 0}
    ages = [section["age_s"] for section in body["sections"].values()]
    assert [type(age) for age in ages] == [float] * 4


async def test_the_weather_is_what_the_upstream_said(gateway: Running, servers: Devstack) -> None:
    query: dict[str, str | float] = {
        "latitude": 47.36667,
        "longitude": 8.55,
        "current": "temperature_2m,relative_humidity_2m,precipitation,weather_code,wind_speed_10m",
        "daily": "precipitation_sum,temperature_2m_max,temperature_2m_min,wind_speed_10m_max",
        "wind_speed_unit": "ms",
        "timezone": "auto",
        "forecast_days": 1,
    }
    async with httpx.AsyncClient() as client:
        said = (await client.get(servers.weather.url + "/v1/forecast", params=query)).json()
    weather = (await gateway.client.get(BRIEF)).json()["sections"]["weather"]["data"]

    current, daily = said["current"], {name: values[0] for name, values in said["daily"].items()}
    assert weather == {
        "observed_at": current["time"],
        "temperature_c": current["temperature_2m"],
        "relative_humidity_percent": current["relative_humidity_2m"],
        "precipitation_mm": current["precipitation"],
        "weather_code": current["weather_code"],
        "wind_speed_m_s": current["wind_speed_10m"],
        "today": {
            "date": daily["time"],
            "precipitation_mm": daily["precipitation_sum"],
            "temperature_max_c": daily["temperature_2m_max"],
            "temperature_min_c": daily["temperature_2m_min"],
            "wind_speed_max_m_s": daily["wind_speed_10m_max"],
        },
    }


async def test_the_outlook_is_the_models_of_that_weather(gateway: Running) -> None:
    brief = (await gateway.client.get(BRIEF)).json()
    today = brief["sections"]["weather"]["data"]["today"]
    day = {
        "precipitation_mm": today["precipitation_mm"],
        "temperature_max_c": today["temperature_max_c"],
        "temperature_min_c": today["temperature_min_c"],
        "wind_m_s": today["wind_speed_max_m_s"],
        "date": today["date"],
        "latitude": brief["place"]["latitude"],
    }
    prediction = (await gateway.client.post("/v1/predictions", json={"days": [day]})).json()

    assert brief["sections"]["outlook"]["data"] == prediction["items"][0]


async def test_a_database_that_refuses_costs_no_traceback(
    gateway: Running, servers: Devstack, caplog: pytest.LogCaptureFixture
) -> None:
    async with servers.postgresql.killed():
        statuses = {(await gateway.client.get(BRIEF)).status_code for _ in range(20)}
    gc.collect()

    assert statuses == {503}
    errors = [record for record in caplog.records if record.levelname == "ERROR" and record.name == "asyncio"]
    assert errors == []


async def test_an_unknown_place_is_a_problem(gateway: Running) -> None:
    response = await gateway.client.get("/v1/places/1/brief")

    assert response.status_code == 404
    assert response.headers["Content-Type"] == "application/problem+json"


WEATHER_FAULTS = {
    "too slow": (Faults(latency_s=60), "timeout"),
    "an error": (Faults(status=500), "error"),
    "garbage": (Faults(body="garbage"), "error"),
    "cut off": (Faults(body="truncated"), "error"),
    "nothing": (Faults(body="empty"), "error"),
}


@pytest.mark.parametrize("fault", WEATHER_FAULTS)
async def test_bad_weather_answers_cost_weather_and_outlook_only(
    settings: Settings, weather: Weather, fault: str
) -> None:
    faults, reason = WEATHER_FAULTS[fault]
    async with running(settings.model_copy(update={"brief_timeout": BRIEF_TIMEOUT})) as gateway:
        await weather.set_faults(faults)
        response = await gateway.client.get(BRIEF)
        await weather.set_faults(Faults())

        assert reasons(response) == {"weather": reason, "outlook": "no_weather"}
        assert reasons(await gateway.client.get(BRIEF)) == {}


async def test_a_weather_upstream_that_is_down_is_refused(gateway: Running, servers: Devstack) -> None:
    async with servers.weather.stopped():
        response = await gateway.client.get(BRIEF)

    assert reasons(response) == {"weather": "refused", "outlook": "no_weather"}
    assert reasons(await gateway.client.get(BRIEF)) == {}


async def test_redis_away_costs_popularity_only(gateway: Running, servers: Devstack) -> None:
    await gateway.client.get(BRIEF)
    async with servers.redis.stopped():
        first = await gateway.client.get(BRIEF)  # may find a connection that Redis is just closing
        second = await gateway.client.get(BRIEF)

    assert reasons(first) in ({"popularity": "refused"}, {"popularity": "error"})
    assert reasons(second) == {"popularity": "refused"}
    assert reasons(await gateway.client.get(BRIEF)) == {}


def stalled(servers: Devstack, name: str) -> Server:
    return {"redis": servers.redis, "weather": servers.weather, "database": servers.postgresql}[name]


@pytest.mark.parametrize(
    ("name", "missing"),
    [("redis", {"popularity": "timeout"}), ("weather", {"weather": "timeout", "outlook": "no_weather"})],
)
async def test_a_server_that_stalls_costs_its_sections_and_the_deadline_holds(
    gateway_with_deadline: Running, servers: Devstack, name: str, missing: dict[str, str]
) -> None:
    gateway = gateway_with_deadline
    await gateway.client.get(BRIEF)
    await flush_redis(servers)
    with stalled(servers, name).suspended():
        began = time.monotonic()
        response = await gateway.client.get(BRIEF)
        took = time.monotonic() - began

    assert reasons(response) == missing
    assert took < LATE
    assert reasons(await gateway.client.get(BRIEF)) == {}


async def test_a_database_that_stalls_is_a_problem_in_time_and_no_other_request_pays_for_it(
    gateway_with_deadline: Running, servers: Devstack
) -> None:
    gateway = gateway_with_deadline
    await gateway.client.get(BRIEF)
    with servers.postgresql.suspended():
        began = time.monotonic()
        response = await gateway.client.get(BRIEF)
        took = time.monotonic() - began

    assert response.status_code == 503
    assert response.headers["Content-Type"] == "application/problem+json"
    assert "database" in response.json()["detail"]
    assert took < LATE
    assert reasons(await gateway.client.get(BRIEF)) == {}


async def test_a_restarted_database_costs_nothing_once_it_is_back(gateway: Running, servers: Devstack) -> None:
    await gateway.client.get(BRIEF)
    async with servers.postgresql.killed():
        away = await gateway.client.get(BRIEF)

    assert away.status_code == 503
    assert reasons(await gateway.client.get(BRIEF)) == {}


@pytest.mark.parametrize("foreign", [b"\xff not a number", b"-1", str(2**64).encode()])
async def test_foreign_data_in_redis_is_an_error_of_its_section(
    gateway: Running, settings: Settings, foreign: bytes
) -> None:
    async with redis.Redis.from_url(settings.redis.url.get_secret_value()) as client:
        await client.set(f"popularity:{ZURICH}", foreign)
        try:
            response = await gateway.client.get(BRIEF)
        finally:
            await client.delete(f"popularity:{ZURICH}")

    assert reasons(response) == {"popularity": "error"}


async def test_briefs_that_were_given_up_leave_nothing_behind(servers: Devstack, settings: Settings) -> None:
    """A question that outlives its brief is ended before the engine under it is disposed."""
    async with running(settings.model_copy(update={"brief_timeout": BRIEF_TIMEOUT})) as gateway:
        await gateway.client.get(BRIEF)
        with servers.postgresql.suspended():
            await gateway.client.get(BRIEF)
            assert [event for event in gateway.stack.journal if event.error] == []

    # An exit that had taken longer than its stop timeout would be an error here.
    assert [event for event in gateway.stack.journal if event.error] == []

    async def no_client() -> bool:
        names = await servers.postgresql.clients()
        return not any(name.startswith(settings.instance) for name in names)

    await wait_until(no_client, "no connection is left")
