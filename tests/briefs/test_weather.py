"""The weather, parsed from the responses of the upstream."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from starlette.datastructures import QueryParams

from gateway.briefs.forecasts import _VARIABLES, UpstreamError, _parse_forecast
from gateway.briefs.weather import Weather
from gateway.briefs.weather_cache import decode_cached
from gateway.devstack.open_meteo import forecast

SUMMER_TIME_ENDS = datetime(2026, 10, 25, 1, tzinfo=UTC)  # in Europe


def response(*, now: datetime, zone: str = "Europe/Zurich") -> dict[str, Any]:
    """Return the response of Open-Meteo to the gateway's request, in a time zone."""
    query = QueryParams(f"latitude=47.4&longitude=8.5&{_VARIABLES}".replace("timezone=auto", f"timezone={zone}"))
    result = forecast(query, now=now)
    assert isinstance(result, dict)
    return result


def parse(content: object) -> Weather:
    return _parse_forecast(json.dumps(content).encode())


@pytest.mark.parametrize(
    ("zone", "now", "expected"),
    [
        ("Europe/Zurich", datetime(2026, 11, 24, 13, 20, tzinfo=UTC), "2026-11-24T14:15:00+01:00"),
        ("America/St_Johns", datetime(2026, 11, 24, 1, 0, tzinfo=UTC), "2026-11-23T21:30:00-03:30"),
        ("Asia/Kathmandu", datetime(2026, 11, 24, 18, 20, tzinfo=UTC), "2026-11-25T00:00:00+05:45"),
        ("Atlantic/Reykjavik", datetime(2026, 11, 24, 13, 20, tzinfo=UTC), "2026-11-24T13:15:00Z"),
        ("Pacific/Kiritimati", datetime(2026, 11, 24, 13, 20, tzinfo=UTC), "2026-11-25T03:15:00+14:00"),
    ],
)
def test_time_has_the_local_offset(zone: str, now: datetime, expected: str) -> None:
    """The time of the weather is the local time with its offset, and the date of its forecast is the local date."""
    weather = parse(response(now=now, zone=zone))

    assert weather.observed_at == expected
    assert weather.today.date.isoformat() == expected[:10]


def test_both_hours_at_the_end_of_summer_time() -> None:
    """At the end of summer time, the same local time occurs twice. The offset distinguishes them."""
    before = parse(response(now=SUMMER_TIME_ENDS.replace(hour=0, minute=30)))
    after = parse(response(now=SUMMER_TIME_ENDS.replace(hour=1, minute=30)))

    assert (before.observed_at, after.observed_at) == ("2026-10-25T02:30:00+02:00", "2026-10-25T02:30:00+01:00")


@pytest.mark.parametrize(
    "change",
    [
        {"utc_offset_seconds": None},
        {"utc_offset_seconds": 86_400},
        {"utc_offset_seconds": 2048},  # local mean time, which RFC 3339 cannot express
        {"current": {"time": "2026-11-24T14:15+01:00"}},
        {"current": {"time": "noon"}},
    ],
    ids=str,
)
def test_invalid_response(change: dict[str, Any]) -> None:
    """A response without a usable offset or time is an error of the upstream."""
    content = response(now=SUMMER_TIME_ENDS)
    for name, value in change.items():
        content[name] = content[name] | value if isinstance(value, dict) else value
    with pytest.raises(UpstreamError):
        parse(content)


def test_upstream_without_mean_wind() -> None:
    """The mean wind may be missing."""
    content = response(now=SUMMER_TIME_ENDS)
    del content["daily"]["wind_speed_10m_mean"]
    assert parse(content).today.wind_speed_m_s is None


TODAY = {
    "date": "2026-11-24",
    "precipitation_mm": 0.9,
    "temperature_max_c": 6.5,
    "temperature_min_c": -1.1,
    "wind_speed_m_s": 2.5,
    "wind_speed_max_m_s": 7.6,
}
CACHED = {
    "observed_at": "2026-11-24T14:15:00+01:00",
    "temperature_c": 5.0,
    "relative_humidity_percent": 80.0,
    "precipitation_mm": 0.0,
    "weather_code": 3,
    "wind_speed_m_s": 2.0,
    "today": TODAY,
}


def cached(weather: dict[str, Any]) -> bytes:
    return json.dumps({"fetched_at": datetime.now(UTC).timestamp(), "weather": weather}).encode()


@pytest.mark.parametrize(
    "change",
    [
        {"observed_at": "2026-11-24T14:15"},
        {"observed_at": "2026-11-24T14:15:00"},
        {"observed_at": "2026-11-24T14:15:00+01:00\n"},
        {"today": {name: value for name, value in TODAY.items() if name != "wind_speed_m_s"}},
    ],
    ids=["of the previous version", "without offset", "with a line break", "without mean wind"],
)
def test_incomplete_cached_weather_is_ignored(change: dict[str, Any]) -> None:
    """Cached weather whose time has no offset, as the previous version wrote it, or without the mean wind, counts as none."""
    assert decode_cached(cached(CACHED)) is not None
    assert decode_cached(cached(CACHED | change)) is None
