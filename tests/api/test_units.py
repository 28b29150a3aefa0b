"""The names and units of all fields in the OpenAPI description."""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.app import create_app
from gateway.settings import Settings

# The unit that a name ends with.
UNITS = ("m_s", "ms", "s", "mm", "c", "percent", "probability")
# Numbers without a unit: ids, counts, codes; and angles in degrees.
WITHOUT_UNIT = {
    "id",
    "place_id",
    "unknown",
    "population",
    "observation_count",
    "views",
    "weather_code",
    "status",
    "latitude",
    "longitude",
}
UNIT = re.compile(f"(.+?)_({'|'.join(UNITS)})")


@pytest.fixture(scope="module")
def fields() -> list[tuple[str, dict[str, Any]]]:
    """The name and the schema of each field in a body of a request or a response."""
    schemas = create_app(Settings()).openapi()["components"]["schemas"]
    return [field for schema in schemas.values() for field in schema.get("properties", {}).items()]


def variants(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the schemas of a field: its alternatives, and those of its items."""
    yield schema
    for alternative in schema.get("anyOf", []):
        yield from variants(alternative)
    if "items" in schema:
        yield from variants(schema["items"])


def has(schema: dict[str, Any], **expected: str) -> bool:
    return any(all(variant.get(name) == value for name, value in expected.items()) for variant in variants(schema))


def test_every_number_has_a_unit(fields: list[tuple[str, dict[str, Any]]]) -> None:
    """The name of each number ends with its unit, unless it has none. A quantity has the same unit everywhere."""
    units = defaultdict(set)
    for name, schema in fields:
        if (has(schema, type="number") or has(schema, type="integer")) and name not in WITHOUT_UNIT:
            match = UNIT.fullmatch(name)
            assert match, name
            units[match[1]].add(match[2])

    assert {quantity: names for quantity, names in units.items() if len(names) > 1} == {}
    assert units["took"] == {"ms"}
    assert units["wind_speed"] == {"m_s"}


def test_every_time_has_a_format(fields: list[tuple[str, dict[str, Any]]]) -> None:
    """Times have the format `date-time`, and dates the format `date`."""
    times = [name for name, schema in fields if name.endswith("_at") and has(schema, type="string", format="date-time")]
    dates = [name for name, schema in fields if name == "date" and has(schema, type="string", format="date")]

    assert sorted(times) == sorted(name for name, _ in fields if name.endswith("_at"))
    assert dates == [name for name, _ in fields if name == "date"]
    assert set(times) == {"observed_at", "created_at", "began_at"}
