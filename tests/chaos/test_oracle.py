"""The oracle finds each kind of violation, and accepts each correct response."""

from typing import Any

import pytest

from tests.chaos.clients import Response
from tests.chaos.oracle import violations
from tests.chaos.outages import RECOVERY_TIMEOUT, Outage, Outages

SENT_AT = 100.0


def brief(
    *,
    complete: bool = True,
    incomplete: str = "",
    stale: str = "",
    weather_age: float = 0.0,
    **sections: tuple[str, str | None],
) -> Response:
    """Return a brief. Its sections are ok, except those that are given, each with its status and reason."""
    body: dict[str, Any] = {"complete": complete, "sections": {}}
    for name in ("weather", "outlook", "observations", "popularity"):
        status, reason = sections.get(name, ("ok", None))
        data: dict[str, Any] | None = None if status == "unavailable" else {}
        age = None if status == "unavailable" else weather_age if name == "weather" else 0.0
        body["sections"][name] = {"status": status, "reason": reason, "data": data, "age_s": age}
    headers = {"gateway-complete": str(complete).lower(), "gateway-incomplete": incomplete, "gateway-stale": stale}
    return Response("gateway-1", SENT_AT, SENT_AT + 0.1, 200, headers, body)


def without_body(status: int | None) -> Response:
    return Response("gateway-1", SENT_AT, SENT_AT + 0.1, status)


def outage(name: str, start: float, end: float) -> Outages:
    return Outages([Outage(name, "killed", start, down_at=start, recovering_at=end, ended_at=end)])


WITHOUT_REDIS = brief(complete=False, incomplete="popularity;reason=refused", popularity=("unavailable", "refused"))
WRONG = {
    "unavailable without an outage": (WITHOUT_REDIS, Outages()),
    "unavailable two seconds after the outage": (WITHOUT_REDIS, outage("redis", 90, SENT_AT - RECOVERY_TIMEOUT - 0.1)),
    "unavailable during the outage of another server": (WITHOUT_REDIS, outage("rabbitmq", 90, 110)),
    "ok during an outage": (brief(), outage("redis", 90, 110)),
    "ok with weather of two minutes ago": (brief(weather_age=120), Outages()),
    "fetched while the upstream was down": (brief(weather_age=5), outage("weather", 90, 98)),
    "stale with a reason but no outage": (brief(stale="weather", weather=("stale", "timeout")), Outages()),
    "complete without a section": (
        brief(incomplete="popularity;reason=refused", popularity=("unavailable", "refused")),
        outage("redis", 90, 110),
    ),
    "missing in the header": (
        brief(complete=False, popularity=("unavailable", "refused")),
        outage("redis", 90, 110),
    ),
    "503 with a healthy database": (without_body(503), Outages()),
    "no response from a healthy replica": (without_body(None), Outages()),
    "internal error": (without_body(500), outage("postgresql", 90, 110)),
}
CORRECT = {
    "complete": (brief(), Outages()),
    "unavailable during the outage": (WITHOUT_REDIS, outage("redis", 90, 110)),
    "fetched before the outage of the upstream": (brief(weather_age=12), outage("weather", 90, 110)),
    "fetched after the outage of the upstream": (brief(weather_age=1), outage("weather", 90, 98)),
    "fetched by a replica that was suspended": (
        brief(weather_age=5),
        Outages([*outage("weather", 90, 98).all, *outage("gateway-2", 94, 95).all]),
    ),
    "unavailable a second after the outage": (WITHOUT_REDIS, outage("redis", 90, SENT_AT - 1)),
    "ok with an outage during the request": (brief(), outage("redis", SENT_AT + 0.05, 110)),
    "stale during another request's refresh": (brief(stale="weather", weather=("stale", None)), Outages()),
    "503 without the database": (without_body(503), outage("postgresql", 90, 110)),
    "no response during the outage of the replica": (without_body(None), outage("gateway-1", 90, 110)),
}


@pytest.mark.parametrize(("response", "outages"), WRONG.values(), ids=WRONG)
def test_violation_is_found(response: Response, outages: Outages) -> None:
    """A wrong response has exactly one violation."""
    assert len(violations([response], outages)) == 1


@pytest.mark.parametrize(("response", "outages"), CORRECT.values(), ids=CORRECT)
def test_correct_response_is_accepted(response: Response, outages: Outages) -> None:
    """A correct response has no violation."""
    assert violations([response], outages) == []
