"""The requests of the load generator as prepared bytes, and the checks of their responses."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from itertools import count
from typing import Any, Literal, NamedTuple
from uuid import uuid4

import orjson

HELLO = b'{"message":"Hello World"}'
OBSERVATIONS_PER_PLACE = 5
WEATHER_TODAY_FIELDS = 6  # the date and five values
NOTE = (
    "Seen from the bridge; the far shore lay in haze, and the wind came in gusts from the west. "  # a brief is 2.7 kB
)

Workload = Literal["hello", "brief", "brief without weather", "briefs", "observation", "forecast"]


class WrongResponseError(Exception):
    """A response does not match its request. The message gives the reason and shows both."""


class IncompleteBriefError(WrongResponseError):
    """The brief lacks a section that it should have. A server without enough time may leave it out."""


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


def random_requests(
    workload: Workload, places: Sequence[SeededPlace], *, places_per_call: int = 1, each_once: bool = False, seed: int
) -> Iterator[CheckedRequest]:
    """Return the requests of a workload in an order that depends only on the seed.

    Args:
        workload: the kind of request.
        places: the places that the requests are about.
        places_per_call: the number of places in a request for several briefs.
        each_once: end after one request for each place; otherwise the requests are endless.
        seed: of the order.
    """
    generator = random.Random(seed)  # noqa: S311 - the same order in every run
    match workload:
        case "hello":
            requests = [hello()]
        case "brief":
            requests = list(map(brief, places))
        case "brief without weather":
            requests = [brief(place, weather=False) for place in places]
        case "briefs":  # each request has consecutive places, and each place comes first in one of the requests
            ring = [*places, *places]
            requests = [briefs(ring[start : start + places_per_call]) for start in range(len(places))]
        case "forecast":
            requests = list(map(forecast, places))
        case "observation":  # created one by one, because each has an idempotency key of its own
            return (observation(generator.choice(places)) for _ in count())
    if each_once:  # successive requests for several briefs overlap in all places but one
        requests = requests[::places_per_call]
    generator.shuffle(requests)
    return iter(requests) if each_once else (generator.choice(requests) for _ in count())


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
    """Create an observation with a new idempotency key, as a client should that may have to repeat it."""
    fields = {"temperature_c": place.id % 40, "condition": "rain", "note": NOTE}

    def check(status: int, body: bytes) -> None:
        _expect("status", status, HTTPStatus.CREATED)
        stored = orjson.loads(body)
        _expect("place", stored["place_id"], place.id)
        for name, value in fields.items():
            _expect(name, stored[name], value)

    return CheckedRequest(_post(f"/v1/places/{place.id}/observations", orjson.dumps(fields), uuid4().hex), check)


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
    if weather and brief["complete"] is False:
        raise IncompleteBriefError("the brief is incomplete")
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
    return f"GET {target} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n".encode()


def _post(target: str, body: bytes, idempotency_key: str) -> bytes:
    head = (
        f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Idempotency-Key: {idempotency_key}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
