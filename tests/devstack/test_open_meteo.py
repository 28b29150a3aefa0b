"""The fake has the interface of Open-Meteo, and injects the faults that are set."""

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from gateway.devstack.open_meteo import Faults, create_app

GATEWAY_QUERY = {
    "current": "temperature_2m,relative_humidity_2m,precipitation,weather_code,wind_speed_10m",
    "daily": "precipitation_sum,temperature_2m_max,temperature_2m_min,wind_speed_10m_mean,wind_speed_10m_max",
    "wind_speed_unit": "ms",
    "timezone": "auto",
    "forecast_days": "1",
}
ZURICH = {"latitude": "47.36667", "longitude": "8.55"}


@pytest.fixture
def client() -> httpx.AsyncClient:
    """A client of a fake whose clock stands still."""
    app = create_app(lambda: datetime(2026, 11, 24, 23, 40, tzinfo=UTC))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://weather")


async def forecast(client: httpx.AsyncClient, **query: str) -> Any:
    response = await client.get("/v1/forecast", params=query)
    assert response.status_code == 200, response.text
    return response.json()


class TestForecast:
    async def test_one_place_is_an_object(self, client: httpx.AsyncClient) -> None:
        """The forecast for one place is an object, with the fields, units and local time of Open-Meteo."""
        result = await forecast(client, **ZURICH, **GATEWAY_QUERY)
        assert result.pop("generationtime_ms") > 0
        assert result == {
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
                "wind_speed_10m_mean": "m/s",
                "wind_speed_10m_max": "m/s",
            },
            "daily": {
                "time": ["2026-11-25"],
                "precipitation_sum": [0.9],
                "temperature_2m_max": [6.5],
                "temperature_2m_min": [-1.1],
                "wind_speed_10m_mean": [2.49],
                "wind_speed_10m_max": [7.6],
            },
        }

    async def test_several_places_are_a_list(self, client: httpx.AsyncClient) -> None:
        """The forecast for several places is a list in their order, each with its time zone and all but the first with a
        `location_id`. Each place has the same forecast as in a call for this place alone.
        """
        result = await forecast(client, latitude="47.36667,-33.86785", longitude="8.55,151.20732", **GATEWAY_QUERY)
        assert [place["latitude"] for place in result] == [47.375, -33.875]
        assert [place["timezone"] for place in result] == ["Etc/GMT-1", "Etc/GMT-10"]
        assert [place["daily"]["time"] for place in result] == [["2026-11-25"], ["2026-11-25"]]
        assert [place.get("location_id") for place in result] == [None, 1]
        alone = await forecast(client, **ZURICH, **GATEWAY_QUERY)
        assert result[0] | {"generationtime_ms": 0} == alone | {"generationtime_ms": 0}

    async def test_only_requested_fields(self, client: httpx.AsyncClient) -> None:
        """The forecast has only the requested parts, and in them only the requested fields."""
        result = await forecast(client, **ZURICH)
        assert "current" not in result
        assert "daily" not in result
        result = await forecast(client, **ZURICH, current="temperature_2m")
        assert list(result["current"]) == ["time", "interval", "temperature_2m"]

    async def test_defaults(self, client: httpx.AsyncClient) -> None:
        """The defaults are those of Open-Meteo: GMT, km/h, seven days from today."""
        result = await forecast(client, **ZURICH, daily="wind_speed_10m_max")
        assert result["timezone"] == "GMT"
        assert result["daily_units"]["wind_speed_10m_max"] == "km/h"
        assert len(result["daily"]["time"]) == 7
        assert result["daily"]["time"][0] == "2026-11-24"

    async def test_wind_speed_unit(self, client: httpx.AsyncClient) -> None:
        """Wind speeds are converted to the requested unit."""
        metres = await forecast(client, **ZURICH, daily="wind_speed_10m_max", wind_speed_unit="ms")
        knots = await forecast(client, **ZURICH, daily="wind_speed_10m_max", wind_speed_unit="kn")
        ratio = knots["daily"]["wind_speed_10m_max"][0] / metres["daily"]["wind_speed_10m_max"][0]
        assert ratio == pytest.approx(1.94384, rel=0.01)

    async def test_named_time_zone(self, client: httpx.AsyncClient) -> None:
        """With the name of a time zone, times are in that zone."""
        result = await forecast(client, **ZURICH, timezone="America/St_Johns", current="precipitation")
        assert result["timezone"] == "America/St_Johns"
        assert result["timezone_abbreviation"] == "GMT-3.5"
        assert result["current"]["time"] == "2026-11-24T20:00"

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
            (ZURICH | {"hourly": "rain"}, "does not support the parameter 'hourly'"),
        ],
    )
    async def test_invalid_query(self, client: httpx.AsyncClient, query: dict[str, str], reason: str) -> None:
        """An invalid query or an unsupported parameter gets a 400 with the reason, as from Open-Meteo."""
        response = await client.get("/v1/forecast", params=query)
        assert response.status_code == 400
        assert response.json()["error"] is True
        assert reason in response.json()["reason"]


class TestFaults:
    async def get_forecast(self, client: httpx.AsyncClient) -> httpx.Response:
        return await client.get("/v1/forecast", params=ZURICH)

    async def test_status(self, client: httpx.AsyncClient) -> None:
        """With a status, calls get that status and an error body of Open-Meteo's format."""
        await client.put("/faults", json={"status": 503})
        response = await self.get_forecast(client)
        assert response.status_code == 503
        assert response.json() == {"error": True, "reason": "Injected fault"}

    async def test_fail_rate(self, client: httpx.AsyncClient) -> None:
        """With a fail rate of 0.25, every fourth call fails."""
        await client.put("/faults", json={"status": 503, "fail_rate": 0.25})
        assert [(await self.get_forecast(client)).status_code for _ in range(8)] == [200, 200, 200, 503] * 2

    @pytest.mark.parametrize("body", ["garbage", "truncated", "empty"])
    async def test_invalid_body(self, client: httpx.AsyncClient, body: str) -> None:
        """With a faulty body, calls get status 200 and a body that is not JSON."""
        await client.put("/faults", json={"body": body})
        response = await self.get_forecast(client)
        assert response.status_code == 200
        with pytest.raises(ValueError):  # noqa: PT011 - a bad encoding or bad JSON
            response.json()

    async def test_rejected_list(self, client: httpx.AsyncClient) -> None:
        """With a maximum number of places, calls for more get a 400."""
        await client.put("/faults", json={"max_places": 1})
        response = await client.get("/v1/forecast", params={"latitude": "1,2", "longitude": "1,2"})
        assert response.status_code == 400
        assert response.json()["reason"] == "Only 1 locations are allowed. Given 2."
        assert (await self.get_forecast(client)).status_code == 200

    async def test_null_in_a_list(self, client: httpx.AsyncClient) -> None:
        """A forecast of a list can be null; the others are as without the fault."""
        await client.put("/faults", json={"null_place": 1})
        result = await forecast(client, latitude="1,2,3", longitude="1,2,3")
        assert [entry and entry["latitude"] for entry in result] == [1, None, 3]
        assert await forecast(client, **ZURICH) is not None

    async def test_show_and_clear(self, client: httpx.AsyncClient) -> None:
        """The faults can be read; after a DELETE there are none."""
        await client.put("/faults", json={"status": 429})
        assert (await client.get("/faults")).json()["status"] == 429
        await client.delete("/faults")
        assert (await client.get("/faults")).json() == Faults().model_dump()
        assert (await self.get_forecast(client)).status_code == 200

    @pytest.mark.parametrize("faults", [{"statsu": 503}, {"status": 200}, {"fail_rate": 2}, {"latency_s": -1}])
    async def test_invalid_faults_change_nothing(self, client: httpx.AsyncClient, faults: dict[str, float]) -> None:
        """Unknown names and values out of range are rejected with 422, and no fault is set."""
        assert (await client.put("/faults", json=faults)).status_code == 422
        assert (await self.get_forecast(client)).status_code == 200


class TestCallCounts:
    async def test_counted_until_reset(self, client: httpx.AsyncClient) -> None:
        """Calls for forecasts, their places and the failures are counted until a DELETE; other calls are not."""
        await client.get("/v1/forecast", params=ZURICH)
        await client.get("/v1/forecast", params={"latitude": "1,2", "longitude": "1,2"})
        await client.put("/faults", json={"status": 503})
        await client.get("/v1/forecast", params=ZURICH)
        await client.get("/livez")
        assert (await client.get("/calls")).json() == {"calls": 3, "places": 4, "failed": 1}
        await client.delete("/calls")
        assert (await client.get("/calls")).json() == {"calls": 0, "places": 0, "failed": 0}
