"""The stand-in keeps Open-Meteo's contract, and fails as it is told to."""

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from gateway.devstack.open_meteo import create_app

GATEWAYS_QUERY = {
    "current": "temperature_2m,relative_humidity_2m,precipitation,weather_code,wind_speed_10m",
    "daily": "precipitation_sum,temperature_2m_max,temperature_2m_min,wind_speed_10m_max",
    "wind_speed_unit": "ms",
    "timezone": "auto",
    "forecast_days": "1",
}
ZURICH = {"latitude": "47.36667", "longitude": "8.55"}


@pytest.fixture
def client() -> httpx.AsyncClient:
    """Asks a stand-in for which it is a fixed moment."""
    app = create_app(lambda: datetime(2026, 11, 24, 23, 40, tzinfo=UTC))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://weather")


async def forecast(client: httpx.AsyncClient, **query: str) -> Any:
    response = await client.get("/v1/forecast", params=query)
    assert response.status_code == 200, response.text
    return response.json()


class TestTheContract:
    async def test_the_answer_for_one_place_is_an_object(self, client: httpx.AsyncClient) -> None:
        answer = await forecast(client, **ZURICH, **GATEWAYS_QUERY)
        assert answer.pop("generationtime_ms") > 0
        assert answer == {
            "latitude": 47.375,
            "longitude": 8.5625,
            "utc_offset_seconds": 3600,
            "timezone": "Etc/GMT-1",
            "timezone_abbreviation": "GMT+1",
            "elevation": 406.0,
            "current_units": {
                "time": "iso8601",
                "interval": "seconds",
                "temperature_2m": "°C",
                "relative_humidity_2m": "%",
                "precipitation": "mm",
                "weather_code": "wmo code",
                "wind_speed_10m": "m/s",
            },
            "current": {
                "time": "2026-11-25T00:30",
                "interval": 900,
                "temperature_2m": -0.3,
                "relative_humidity_2m": 86,
                "precipitation": 0.0,
                "weather_code": 3,
                "wind_speed_10m": 1.58,
            },
            "daily_units": {
                "time": "iso8601",
                "precipitation_sum": "mm",
                "temperature_2m_max": "°C",
                "temperature_2m_min": "°C",
                "wind_speed_10m_max": "m/s",
            },
            "daily": {
                "time": ["2026-11-25"],
                "precipitation_sum": [0.9],
                "temperature_2m_max": [6.5],
                "temperature_2m_min": [-1.1],
                "wind_speed_10m_max": [7.6],
            },
        }

    async def test_the_answer_for_several_is_a_list_in_their_order(self, client: httpx.AsyncClient) -> None:
        answer = await forecast(client, latitude="47.36667,-33.86785", longitude="8.55,151.20732", **GATEWAYS_QUERY)
        assert [place["latitude"] for place in answer] == [47.375, -33.875]
        assert [place["timezone"] for place in answer] == ["Etc/GMT-1", "Etc/GMT-10"]
        assert [place["daily"]["time"] for place in answer] == [["2026-11-25"], ["2026-11-25"]]
        assert [place.get("location_id") for place in answer] == [None, 1]
        alone = await forecast(client, **ZURICH, **GATEWAYS_QUERY)
        assert answer[0] | {"generationtime_ms": 0} == alone | {"generationtime_ms": 0}

    async def test_what_is_not_asked_for_is_not_answered(self, client: httpx.AsyncClient) -> None:
        answer = await forecast(client, **ZURICH)
        assert "current" not in answer
        assert "daily" not in answer
        answer = await forecast(client, **ZURICH, current="temperature_2m")
        assert list(answer["current"]) == ["time", "interval", "temperature_2m"]

    async def test_the_defaults_are_its_own(self, client: httpx.AsyncClient) -> None:
        answer = await forecast(client, **ZURICH, daily="wind_speed_10m_max")
        assert answer["timezone"] == "GMT"
        assert answer["daily_units"]["wind_speed_10m_max"] == "km/h"
        assert len(answer["daily"]["time"]) == 7
        assert answer["daily"]["time"][0] == "2026-11-24"

    async def test_units_are_converted(self, client: httpx.AsyncClient) -> None:
        metres = await forecast(client, **ZURICH, daily="wind_speed_10m_max", wind_speed_unit="ms")
        knots = await forecast(client, **ZURICH, daily="wind_speed_10m_max", wind_speed_unit="kn")
        ratio = knots["daily"]["wind_speed_10m_max"][0] / metres["daily"]["wind_speed_10m_max"][0]
        assert ratio == pytest.approx(1.94384, rel=0.01)

    async def test_a_named_time_zone_is_taken(self, client: httpx.AsyncClient) -> None:
        answer = await forecast(client, **ZURICH, timezone="America/St_Johns", current="precipitation")
        assert answer["timezone"] == "America/St_Johns"
        assert answer["timezone_abbreviation"] == "GMT-3.5"
        assert answer["current"]["time"] == "2026-11-24T20:00"

    @pytest.mark.parametrize(
        ("query", "reason"),
        [
            ({}, "must have the same number of elements"),
            ({"latitude": "1"}, "must have the same number of elements"),
            ({"latitude": "1,2", "longitude": "1"}, "must have the same number of elements"),
            ({"latitude": "90.1", "longitude": "1"}, "Latitude must be in range of -90 to 90°. Given: 90.1."),
            ({"latitude": "1", "longitude": "-181"}, "Longitude must be in range of -180 to 180°. Given: -181.0."),
            ({"latitude": "nan", "longitude": "1"}, "Latitude must be in range"),
            ({"latitude": "north", "longitude": "1"}, "should be a number"),
            (ZURICH | {"current": "luck"}, "invalid String value luck"),
            (ZURICH | {"daily": "precipitation"}, "invalid String value precipitation"),
            (ZURICH | {"wind_speed_unit": "m/s"}, "Cannot initialize WindspeedUnit"),
            (ZURICH | {"timezone": "Nowhere/Land"}, "Invalid timezone"),
            (ZURICH | {"timezone": "../etc"}, "Invalid timezone"),
            (ZURICH | {"forecast_days": "17"}, "Forecast days is invalid"),
            (ZURICH | {"forecast_days": "-1"}, "Forecast days is invalid"),
            (ZURICH | {"hourly": "rain"}, "does not know the parameter 'hourly'"),
        ],
    )
    async def test_what_it_refuses_has_a_reason(
        self, client: httpx.AsyncClient, query: dict[str, str], reason: str
    ) -> None:
        response = await client.get("/v1/forecast", params=query)
        assert response.status_code == 400
        assert response.json()["error"] is True
        assert reason in response.json()["reason"]


class TestFaults:
    async def ask(self, client: httpx.AsyncClient) -> httpx.Response:
        return await client.get("/v1/forecast", params=ZURICH)

    async def test_a_status(self, client: httpx.AsyncClient) -> None:
        await client.put("/faults", json={"status": 503})
        response = await self.ask(client)
        assert response.status_code == 503
        assert response.json() == {"error": True, "reason": "The stand-in was told to fail"}

    async def test_a_share_of_the_calls(self, client: httpx.AsyncClient) -> None:
        await client.put("/faults", json={"status": 503, "fail_rate": 0.25})
        assert [(await self.ask(client)).status_code for _ in range(8)] == [200, 200, 200, 503] * 2

    @pytest.mark.parametrize("body", ["garbage", "truncated", "empty"])
    async def test_a_body_that_is_no_json(self, client: httpx.AsyncClient, body: str) -> None:
        await client.put("/faults", json={"body": body})
        response = await self.ask(client)
        assert response.status_code == 200
        with pytest.raises(ValueError):  # noqa: PT011 - a bad encoding or bad JSON
            response.json()

    async def test_they_are_shown_and_end_when_cleared(self, client: httpx.AsyncClient) -> None:
        await client.put("/faults", json={"status": 429})
        assert (await client.get("/faults")).json()["status"] == 429
        await client.delete("/faults")
        assert (await client.get("/faults")).json() == {"latency_s": 0, "status": None, "body": None, "fail_rate": 1}
        assert (await self.ask(client)).status_code == 200

    @pytest.mark.parametrize("faults", [{"statsu": 503}, {"status": 200}, {"fail_rate": 2}, {"latency_s": -1}])
    async def test_one_that_it_does_not_know_changes_nothing(
        self, client: httpx.AsyncClient, faults: dict[str, float]
    ) -> None:
        assert (await client.put("/faults", json=faults)).status_code == 422
        assert (await self.ask(client)).status_code == 200


class TestCalls:
    async def test_they_are_counted_with_their_places_until_reset(self, client: httpx.AsyncClient) -> None:
        await client.get("/v1/forecast", params=ZURICH)
        await client.get("/v1/forecast", params={"latitude": "1,2", "longitude": "1,2"})
        await client.put("/faults", json={"status": 503})
        await client.get("/v1/forecast", params=ZURICH)
        await client.get("/livez")
        assert (await client.get("/calls")).json() == {"calls": 3, "places": 4, "failed": 1}
        await client.delete("/calls")
        assert (await client.get("/calls")).json() == {"calls": 0, "places": 0, "failed": 0}
