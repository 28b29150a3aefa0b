"""The requests of the load generator as prepared bytes, and the checks of their responses."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal, NamedTuple

import orjson

from benchmarks.contenders import hello_asgi

HELLO = hello_asgi.BODY
OBSERVATIONS_PER_PLACE = 5
WEATHER_TODAY_FIELDS = 6  # the date and five values
NOTE = (
    "Seen from the bridge; the far shore lay in haze, and the wind came in gusts from the west. "  # a brief is 2.7 kB
)

Workload = Literal["hello", "brief", "brief without weather", "briefs", "observation", "forecast"]


class WrongResponseError(Exception):
    """A response does not match its request. The message gives the reason and shows both."""


class SeededPlace(NamedTuple):
    """A place in the database, and the number of views that Redis has for it."""

    id: int
    views: int


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """A request and the check of its response.

    Attributes:
        wire: the request as HTTP/1.1.
        check: takes the status and the body of the response, and raises an exception if one of them is wrong.
    """

    wire: bytes
    check: Callable[[int, bytes], None]


def build_requests(workload: Workload, places: Sequence[SeededPlace], places_per_call: int = 1) -> list[CheckedRequest]:
    """Return the requests of a workload: one for each place, or a single one for "hello"."""
    match workload:
        case "hello":
            return [hello()]
        case "brief":
            return list(map(brief, places))
        case "brief without weather":
            return [brief(place, weather=False) for place in places]
        case "observation":
            return list(map(observation, places))
        case "forecast":
            return list(map(forecast, places))
        case "briefs":  # each request has consecutive places, and each place comes first in one of the requests
            ring = [*places, *places]
            return [briefs(ring[start : start + places_per_call]) for start in range(len(places))]


def hello() -> CheckedRequest:
    """Request the constant body of the "hello" ceilings."""

    def check(status: int, body: bytes) -> None:
        _expect("status", status, HTTPStatus.OK)
        _expect("body", body, HELLO)

    return CheckedRequest(_get("/"), check)


def brief(place: SeededPlace, *, weather: bool = True) -> CheckedRequest:
    """Request a brief. It has to be complete, or, without `weather`, to lack only the weather."""

    def check(status: int, body: bytes) -> None:
        _expect("status", status, HTTPStatus.OK)
        _check_brief(orjson.loads(body), place, weather=weather)

    return CheckedRequest(_get(f"/v1/places/{place.id}/brief"), check)


def briefs(places: Sequence[SeededPlace]) -> CheckedRequest:
    """Request the briefs of several places in one call."""

    def check(status: int, body: bytes) -> None:
        _expect("status", status, HTTPStatus.OK)
        items = orjson.loads(body)["items"]
        _expect("number of briefs", len(items), len(places))
        for item, place in zip(items, places, strict=True):
            _check_brief(item, place, weather=True)

    return CheckedRequest(_get("/v1/briefs?" + "&".join(f"place={place.id}" for place in places)), check)


def observation(place: SeededPlace) -> CheckedRequest:
    """Create an observation."""
    fields = {"temperature_c": place.id % 40, "condition": "rain", "note": NOTE}

    def check(status: int, body: bytes) -> None:
        _expect("status", status, HTTPStatus.CREATED)
        stored = orjson.loads(body)
        _expect("place", stored["place_id"], place.id)
        for name, value in fields.items():
            _expect(name, stored[name], value)

    return CheckedRequest(_post(f"/v1/places/{place.id}/observations", orjson.dumps(fields)), check)


def forecast(place: SeededPlace) -> CheckedRequest:
    """Request a forecast from the upstream itself, at a point that depends on the place's id."""
    variables = "current=temperature_2m&daily=temperature_2m_max&timezone=auto&forecast_days=1"

    def check(status: int, body: bytes) -> None:
        _expect("status", status, HTTPStatus.OK)
        _expect("days", len(orjson.loads(body)["daily"]["temperature_2m_max"]), 1)

    return CheckedRequest(_get(f"/v1/forecast?latitude={place.id % 90}&longitude={place.id % 180}&{variables}"), check)


def _check_brief(brief: dict[str, Any], place: SeededPlace, *, weather: bool) -> None:
    sections = brief["sections"]
    _expect("place", brief["place"]["id"], place.id)
    _expect("complete", brief["complete"], weather)
    _expect("status of the weather", sections["weather"]["status"], "ok" if weather else "unavailable")
    place_ids = _place_ids(sections["observations"]["data"])
    _expect("places of the observations", place_ids, [place.id] * OBSERVATIONS_PER_PLACE)
    _expect("views", sections["popularity"]["data"]["views"], place.views)
    if weather:
        _expect("fields of today's weather", len(sections["weather"]["data"]["today"]), WEATHER_TODAY_FIELDS)
        _expect("probability of rain", 0 <= sections["outlook"]["data"]["wet_tomorrow_probability"] <= 1, True)


def _place_ids(observations: Iterable[dict[str, Any]]) -> list[int]:
    return [observation["place_id"] for observation in observations]


def _expect(field: str, actual: object, expected: object) -> None:
    if actual != expected:
        raise WrongResponseError(f"{field}: {actual!r}, expected {expected!r}")


def _get(target: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: gateway\r\nAccept: application/json\r\n\r\n".encode()


def _post(target: str, body: bytes) -> bytes:
    head = f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body
