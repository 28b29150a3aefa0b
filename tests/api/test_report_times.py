"""The time in a report: it has an offset, and is neither in the future nor too old."""

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from gateway.api.observations import MAX_AGE, MAX_CLOCK_ERROR, ObservationCreate

MINUTE = timedelta(minutes=1)  # more than this test takes


def parse(observed_at: object) -> datetime | None:
    report = {"temperature_c": 12.5, "condition": "rain", "observed_at": observed_at}
    return ObservationCreate.model_validate(report).observed_at


@pytest.mark.parametrize("age", [timedelta(0), MAX_AGE - MINUTE, MINUTE - MAX_CLOCK_ERROR])
def test_time_within_the_limits(age: timedelta) -> None:
    """A time of the last days is accepted, also from a client whose clock is a few minutes ahead."""
    time = datetime.now(UTC) - age

    assert parse(time.isoformat()) == time


@pytest.mark.parametrize(
    ("age", "advice"),
    [(MAX_AGE + MINUTE, "at most 7 days ago"), (-MAX_CLOCK_ERROR - MINUTE, "correct the clock or the offset")],
)
def test_time_outside_the_limits(age: timedelta, advice: str) -> None:
    """Older times, and times in the future, are rejected with advice."""
    with pytest.raises(ValidationError, match=advice):
        parse((datetime.now(UTC) - age).isoformat())


@pytest.mark.parametrize("offset", ["", " CET", "[Europe/Zurich]", "+0100"])
def test_time_without_valid_offset(offset: str) -> None:
    """A time without an offset as in RFC 3339 is rejected with an example."""
    local = datetime.now(UTC).replace(tzinfo=None).isoformat()
    with pytest.raises(ValidationError, match="like 2026-11-24T14:15:00"):
        parse(local + offset)


@pytest.mark.parametrize(
    "value",
    [
        0,
        True,
        pytest.param(str(int(datetime.now(UTC).timestamp())), id="now in seconds"),
        "",
        "2026-11-24",
        "2026-11-24 14:15:00+01:00",
        "2026-02-30T14:15:00Z",
        "2026-11-24T14:15:00+99:00",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
    ],
)
def test_other_formats(value: object) -> None:
    """Other types and formats, and times that cannot be converted to UTC, are rejected."""
    with pytest.raises(ValidationError):
        parse(value)


def test_no_time() -> None:
    """The time is optional."""
    assert parse(None) is None
