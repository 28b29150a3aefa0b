"""What the load asks: the bytes of each request, built beforehand, and what its answer has to be."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NamedTuple

import orjson

from benchmarks.contenders import hello_asgi

HELLO = hello_asgi.BODY
OBSERVATIONS = 5
"""How many a brief has of each place here: the data is made so."""

FIGURES = 5
"""What the weather says of today: its date and four values."""

NOTE = "Seen from the bridge; the far shore lay in haze, and the wind came in gusts from the west. "
"""Of every observation, so that a brief has some 2.7 KB."""


class WrongAnswerError(Exception):
    """An answer is not the one to its question; the message says why, and shows it."""


class Place(NamedTuple):
    """A place to ask about, and how often Redis says that it was asked for before."""

    id: int
    views: int


@dataclass(frozen=True, slots=True)
class Question:
    """A request, and the check of its answer."""

    wire: bytes
    check: Callable[[int, bytes], None]
    """Takes status and body; raises whatever a wrong one makes it raise."""


def hello() -> Question:
    """Ask for the roofs' one answer."""

    def check(status: int, body: bytes) -> None:
        _expect("status", status, HTTPStatus.OK)
        _expect("body", body, HELLO)

    return Question(_get("/"), check)


def brief(place: Place, *, weather: bool = True) -> Question:
    """Ask for a brief, which has to be whole: all but the weather if there is no `weather` to be had."""

    def check(status: int, body: bytes) -> None:
        _expect("status", status, HTTPStatus.OK)
        _check_brief(orjson.loads(body), place, weather=weather)

    return Question(_get(f"/v1/places/{place.id}/brief"), check)


def briefs(places: Sequence[Place]) -> Question:
    """Ask for several briefs in one call."""

    def check(status: int, body: bytes) -> None:
        _expect("status", status, HTTPStatus.OK)
        items = orjson.loads(body)["items"]
        _expect("number of briefs", len(items), len(places))
        for item, place in zip(items, places, strict=True):
            _check_brief(item, place, weather=True)

    return Question(_get("/v1/briefs?" + "&".join(f"place={place.id}" for place in places)), check)


def observation(place: Place) -> Question:
    """Report an observation."""
    report = {"temperature_c": place.id % 40, "condition": "rain", "note": NOTE}

    def check(status: int, body: bytes) -> None:
        _expect("status", status, HTTPStatus.CREATED)
        stored = orjson.loads(body)
        _expect("place", stored["place_id"], place.id)
        for name, value in report.items():
            _expect(name, stored[name], value)

    return Question(_post(f"/v1/places/{place.id}/observations", orjson.dumps(report)), check)


def forecast(place: Place) -> Question:
    """Ask the upstream itself, for a whole forecast of any point."""
    variables = "current=temperature_2m&daily=temperature_2m_max&timezone=auto&forecast_days=1"

    def check(status: int, body: bytes) -> None:
        _expect("status", status, HTTPStatus.OK)
        _expect("days", len(orjson.loads(body)["daily"]["temperature_2m_max"]), 1)

    return Question(_get(f"/v1/forecast?latitude={place.id % 90}&longitude={place.id % 180}&{variables}"), check)


def _check_brief(brief: dict[str, Any], place: Place, *, weather: bool) -> None:
    sections = brief["sections"]
    _expect("place", brief["place"]["id"], place.id)
    _expect("complete", brief["complete"], weather)
    _expect("status of the weather", sections["weather"]["status"], "ok" if weather else "unavailable")
    _expect("places of the observations", _places(sections["observations"]["data"]), [place.id] * OBSERVATIONS)
    _expect("views", sections["popularity"]["data"]["views"], place.views)
    if weather:
        _expect("figures of today", len(sections["weather"]["data"]["today"]), FIGURES)
        _expect("chance of rain", 0 <= sections["outlook"]["data"]["wet_tomorrow_probability"] <= 1, True)


def _places(observations: Iterable[dict[str, Any]]) -> list[int]:
    return [observation["place_id"] for observation in observations]


def _expect(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise WrongAnswerError(f"{what}: {found!r}, not {wanted!r}")


def _get(target: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: gateway\r\nAccept: application/json\r\n\r\n".encode()


def _post(target: str, body: bytes) -> bytes:
    head = f"POST {target} HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body
