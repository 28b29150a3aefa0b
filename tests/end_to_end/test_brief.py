"""The brief of a place: complete when all backends work, otherwise with the reason for each missing section."""

import gc
import time

import httpx
import pytest
import redis.asyncio as redis

from gateway.devstack.open_meteo import Faults
from gateway.devstack.server import Server
from gateway.devstack.stack import Devstack
from gateway.devstack.weather import WeatherServer
from gateway.settings import Settings
from tests.end_to_end.conftest import BRIEF_TIMEOUT, MAX_RESPONSE_TIME
from tests.end_to_end.harness import ZURICH, RunningGateway, flush_redis, running_gateway
from tests.support.waiting import wait_until

BRIEF = f"/v1/places/{ZURICH}/brief"
UNKNOWN_PLACE = 1


@pytest.fixture(autouse=True)
async def empty_redis(servers: Devstack) -> None:
    """Delete the cached weather and the views of other tests."""
    await flush_redis(servers)


def missing_sections(response: httpx.Response) -> dict[str, str | None]:
    """Return the reason for each missing section, and assert that sections, flag and headers are consistent."""
    body = response.json()
    sections = body["sections"]
    missing = {name: section["reason"] for name, section in sections.items() if section["status"] == "unavailable"}
    assert body["complete"] == (not missing)
    assert response.headers["Gateway-Complete"] == ("false" if missing else "true")
    expected_header = ", ".join(f"{name};reason={reason}" for name, reason in missing.items())
    assert response.headers.get("Gateway-Incomplete", "") == expected_header
    assert all((section["data"] is None) == (name in missing) for name, section in sections.items())
    return missing


async def test_brief_has_all_sections(gateway: RunningGateway, servers: Devstack) -> None:
    """A complete brief has four sections with their ages; the observations are the latest five, newest first."""
    async with servers.postgresql.superuser("gateway") as connection:
        for number in range(6):
            await connection.execute(
                "INSERT INTO observations (place_id, temperature_c, condition, note) VALUES ($1, 12.5, 'rain', $2)",
                ZURICH,
                f"number {number}",
            )

    response = await gateway.client.get(BRIEF)

    assert missing_sections(response) == {}
    body = response.json()
    assert body["place"]["name"] == "Zürich"
    assert set(body["sections"]) == {"weather", "outlook", "observations", "popularity"}
    assert -40 < body["sections"]["weather"]["data"]["temperature_c"] < 50
    assert 0 < body["sections"]["outlook"]["data"]["wet_tomorrow_probability"] < 1
    notes = [observation["note"] for observation in body["sections"]["observations"]["data"]]
    assert notes == [f"number {number}" for number in (5, 4, 3, 2, 1)]
    assert body["sections"]["popularity"]["data"] == {"views": 0}
    assert [type(section["age_s"]) for section in body["sections"].values()] == [float] * 4


async def test_weather_comes_from_upstream(gateway: RunningGateway, servers: Devstack) -> None:
    """The weather of a brief has the values of upstream's forecast."""
    query: dict[str, str | float] = {
        "latitude": 47.36667,
        "longitude": 8.55,
        "current": "temperature_2m,relative_humidity_2m,precipitation,weather_code,wind_speed_10m",
        "daily": "precipitation_sum,temperature_2m_max,temperature_2m_min,wind_speed_10m_mean,wind_speed_10m_max",
        "wind_speed_unit": "ms",
        "timezone": "auto",
        "forecast_days": 1,
    }
    async with httpx.AsyncClient() as client:
        forecast = (await client.get(servers.weather.url + "/v1/forecast", params=query)).json()

    weather = (await gateway.client.get(BRIEF)).json()["sections"]["weather"]["data"]

    current, daily = forecast["current"], {name: values[0] for name, values in forecast["daily"].items()}
    assert weather == {
        "observed_at": current["time"] + ":00+01:00",
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
            "wind_speed_m_s": daily["wind_speed_10m_mean"],
            "wind_speed_max_m_s": daily["wind_speed_10m_max"],
        },
    }


async def test_outlook_is_predicted_from_weather(gateway: RunningGateway) -> None:
    """The outlook of a brief is the model's prediction for the weather of the same brief, which has the same names."""
    brief = (await gateway.client.get(BRIEF)).json()
    today = brief["sections"]["weather"]["data"]["today"]
    del today["wind_speed_max_m_s"]
    day = today | {"latitude": brief["place"]["latitude"]}
    prediction = (await gateway.client.post("/v1/predictions", json={"days": [day]})).json()

    assert brief["sections"]["outlook"]["data"] == prediction["items"][0]


async def test_refused_connections_log_no_traceback(
    gateway: RunningGateway, servers: Devstack, caplog: pytest.LogCaptureFixture
) -> None:
    """While PostgreSQL refuses connections, each response is a 503, and asyncio logs no unretrieved exception."""
    async with servers.postgresql.killed():
        statuses = {(await gateway.client.get(BRIEF)).status_code for _ in range(20)}
    gc.collect()  # asyncio logs an unretrieved exception when its future is collected

    assert statuses == {503}
    errors = [record for record in caplog.records if record.levelname == "ERROR" and record.name == "asyncio"]
    assert errors == []


async def test_brief_of_an_unknown_place(gateway: RunningGateway) -> None:
    """A request for the brief of an unknown place gets a problem."""
    response = await gateway.client.get(f"/v1/places/{UNKNOWN_PLACE}/brief")

    assert response.status_code == 404
    assert response.headers["Content-Type"] == "application/problem+json"


WEATHER_FAULTS = {
    "slow": (Faults(latency_s=60), "timeout"),
    "error": (Faults(status=500), "error"),
    "garbage": (Faults(body="garbage"), "error"),
    "truncated": (Faults(body="truncated"), "error"),
    "empty": (Faults(body="empty"), "error"),
}


@pytest.mark.parametrize("fault", WEATHER_FAULTS)
async def test_failed_weather_response(settings: Settings, weather: WeatherServer, fault: str) -> None:
    """Without a valid forecast, only the weather and the outlook are missing; with the next one the brief is complete."""
    faults, reason = WEATHER_FAULTS[fault]
    async with running_gateway(settings.model_copy(update={"brief_timeout": BRIEF_TIMEOUT})) as gateway:
        await weather.set_faults(faults)
        response = await gateway.client.get(BRIEF)
        await weather.set_faults(Faults())

        assert missing_sections(response) == {"weather": reason, "outlook": "no_weather"}
        assert missing_sections(await gateway.client.get(BRIEF)) == {}


async def test_weather_upstream_is_down(gateway: RunningGateway, servers: Devstack) -> None:
    """Without upstream, only the weather and the outlook are missing; the next brief after its start is complete."""
    async with servers.weather.stopped():
        response = await gateway.client.get(BRIEF)

    assert missing_sections(response) == {"weather": "refused", "outlook": "no_weather"}
    assert missing_sections(await gateway.client.get(BRIEF)) == {}


async def test_redis_is_down(gateway: RunningGateway, servers: Devstack) -> None:
    """Without Redis, only the popularity is missing; the next brief after its start is complete."""
    await gateway.client.get(BRIEF)
    async with servers.redis.stopped():
        first = await gateway.client.get(BRIEF)  # may use a connection that Redis is closing
        second = await gateway.client.get(BRIEF)

    assert missing_sections(first) in ({"popularity": "refused"}, {"popularity": "error"})
    assert missing_sections(second) == {"popularity": "refused"}
    assert missing_sections(await gateway.client.get(BRIEF)) == {}


@pytest.mark.parametrize(
    ("name", "missing"),
    [("redis", {"popularity": "timeout"}), ("weather", {"weather": "timeout", "outlook": "no_weather"})],
)
async def test_paused_server_and_the_deadline(
    gateway_with_deadline: RunningGateway, servers: Devstack, name: str, missing: dict[str, str]
) -> None:
    """If Redis or upstream does not respond, the brief arrives by its deadline without their sections."""
    gateway = gateway_with_deadline
    server: Server = {"redis": servers.redis, "weather": servers.weather}[name]
    await gateway.client.get(BRIEF)
    await flush_redis(servers)
    with server.suspended():
        started_at = time.monotonic()
        response = await gateway.client.get(BRIEF)
        elapsed = time.monotonic() - started_at

    assert missing_sections(response) == missing
    assert elapsed < MAX_RESPONSE_TIME
    assert missing_sections(await gateway.client.get(BRIEF)) == {}


async def test_paused_database_and_the_deadline(gateway_with_deadline: RunningGateway, servers: Devstack) -> None:
    """If PostgreSQL does not respond, the response is a problem by the deadline of the brief. The next brief is complete."""
    gateway = gateway_with_deadline
    await gateway.client.get(BRIEF)
    with servers.postgresql.suspended():
        started_at = time.monotonic()
        response = await gateway.client.get(BRIEF)
        elapsed = time.monotonic() - started_at

    assert response.status_code == 503
    assert response.headers["Content-Type"] == "application/problem+json"
    assert "database" in response.json()["detail"]
    assert elapsed < MAX_RESPONSE_TIME
    assert missing_sections(await gateway.client.get(BRIEF)) == {}


async def test_database_is_restarted(gateway: RunningGateway, servers: Devstack) -> None:
    """While PostgreSQL is down, the response is a 503. The first brief after the restart is complete."""
    await gateway.client.get(BRIEF)
    async with servers.postgresql.killed():
        response = await gateway.client.get(BRIEF)

    assert response.status_code == 503
    assert missing_sections(await gateway.client.get(BRIEF)) == {}


@pytest.mark.parametrize("content", [b"\xff not a number", b"-1", str(2**64).encode()])
async def test_invalid_popularity_in_redis(gateway: RunningGateway, settings: Settings, content: bytes) -> None:
    """If Redis has an invalid number of views, only the popularity is missing, with the reason `error`."""
    async with redis.Redis.from_url(settings.redis.url.get_secret_value()) as client:
        await client.set(f"popularity:{ZURICH}", content)
        try:
            response = await gateway.client.get(BRIEF)
        finally:
            await client.delete(f"popularity:{ZURICH}")

    assert missing_sections(response) == {"popularity": "error"}


async def test_late_queries_end_at_the_teardown(servers: Devstack, settings: Settings) -> None:
    """A query that is still in flight after the deadline of its brief ends before the teardown disposes of the engine."""
    async with running_gateway(settings.model_copy(update={"brief_timeout": BRIEF_TIMEOUT})) as gateway:
        await gateway.client.get(BRIEF)
        with servers.postgresql.suspended():
            await gateway.client.get(BRIEF)
            assert [event for event in gateway.stack.journal if event.error] == []

    # No exit has failed or exceeded its stop timeout.
    assert [event for event in gateway.stack.journal if event.error] == []

    async def no_connection() -> bool:
        names = await servers.postgresql.clients()
        return not any(name.startswith(settings.instance) for name in names)

    await wait_until(no_connection, "PostgreSQL has no connection of the gateway")
