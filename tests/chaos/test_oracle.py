"""The judge can convict: an answer that is not true is found, and one that is true is not."""

from typing import Any

import pytest

from tests.chaos.clients import Seen
from tests.chaos.oracle import lies
from tests.chaos.outages import HEALTHY_AFTER, Outage, Outages

ASKED = 100.0


def answer(
    *,
    complete: bool = True,
    incomplete: str = "",
    stale: str = "",
    weather_age: float = 0.0,
    **sections: tuple[str, str | None],
) -> Seen:
    """A brief whose sections are ok but for some, each with its status and reason."""
    body: dict[str, Any] = {"complete": complete, "sections": {}}
    for name in ("weather", "outlook", "observations", "popularity"):
        status, reason = sections.get(name, ("ok", None))
        data: dict[str, Any] | None = None if status == "unavailable" else {}
        age = None if status == "unavailable" else weather_age if name == "weather" else 0.0
        body["sections"][name] = {"status": status, "reason": reason, "data": data, "age_s": age}
    headers = {"gateway-complete": str(complete).lower(), "gateway-incomplete": incomplete, "gateway-stale": stale}
    return Seen("gateway-1", ASKED, ASKED + 0.1, 200, headers, body)


def down(name: str, *, began: float, ended: float) -> Outages:
    return Outages([Outage(name, "killed", began, broken=began, mending=ended, ended=ended)])


NO_REDIS = answer(complete=False, incomplete="popularity;reason=refused", popularity=("unavailable", "refused"))
LIES = {
    "healthy, but refused": (NO_REDIS, Outages()),
    "healthy for more than two seconds": (NO_REDIS, down("redis", began=90, ended=ASKED - HEALTHY_AFTER - 0.1)),
    "another one was down": (NO_REDIS, down("rabbitmq", began=90, ended=110)),
    "ok while it was down": (answer(), down("redis", began=90, ended=110)),
    "ok and of two minutes ago": (answer(weather_age=120), Outages()),
    "fetched while upstream was down": (answer(weather_age=5), down("weather", began=90, ended=98)),
    "stale for a reason that there was not": (answer(stale="weather", weather=("stale", "timeout")), Outages()),
    "complete, but something is missing": (
        answer(incomplete="popularity;reason=refused", popularity=("unavailable", "refused")),
        down("redis", began=90, ended=110),
    ),
    "not told in the header": (
        answer(complete=False, popularity=("unavailable", "refused")),
        down("redis", began=90, ended=110),
    ),
    "503 with a healthy database": (Seen("gateway-1", ASKED, ASKED + 0.1, 503), Outages()),
    "no answer from a healthy replica": (Seen("gateway-1", ASKED, ASKED + 0.1, None), Outages()),
    "an error": (Seen("gateway-1", ASKED, ASKED + 0.1, 500), down("postgresql", began=90, ended=110)),
}
TRUTHS = {
    "all is well": (answer(), Outages()),
    "it was down": (NO_REDIS, down("redis", began=90, ended=110)),
    "fetched before upstream went down": (answer(weather_age=12), down("weather", began=90, ended=110)),
    "fetched when upstream was back": (answer(weather_age=1), down("weather", began=90, ended=98)),
    "fetched by one that hung meanwhile": (
        answer(weather_age=5),
        Outages([*down("weather", began=90, ended=98).all, *down("gateway-2", began=94, ended=95).all]),
    ),
    "it came back a second ago": (NO_REDIS, down("redis", began=90, ended=ASKED - 1)),
    "it went down meanwhile": (answer(), down("redis", began=ASKED + 0.05, ended=110)),
    "somebody else asks for the weather": (answer(stale="weather", weather=("stale", None)), Outages()),
    "503 without the database": (
        Seen("gateway-1", ASKED, ASKED + 0.1, 503),
        down("postgresql", began=90, ended=110),
    ),
    "the replica was down": (Seen("gateway-1", ASKED, ASKED + 0.1, None), down("gateway-1", began=90, ended=110)),
}


@pytest.mark.parametrize(("seen", "outages"), LIES.values(), ids=LIES)
def test_a_lie_is_found(seen: Seen, outages: Outages) -> None:
    assert len(lies([seen], outages)) == 1


@pytest.mark.parametrize(("seen", "outages"), TRUTHS.values(), ids=TRUTHS)
def test_the_truth_is_believed(seen: Seen, outages: Outages) -> None:
    assert lies([seen], outages) == []
