"""Whether the clients were told the truth, held against what was broken at the time."""

from collections.abc import Iterator

from tests.chaos.clients import Seen
from tests.chaos.outages import Outages

SOURCES = {"weather": "weather", "outlook": "weather", "observations": "postgresql", "popularity": "redis"}
"""Whose failure a section may be missing for. (The weather is asked for upstream when Redis is away.)"""

FRESH_FOR = 60.0
"""Seconds for which the weather may be told as `ok`."""

READ_LATE = 0.2
"""Seconds that an answer of upstream may have been under way when that went down."""


def lies(answers: list[Seen], outages: Outages) -> list[str]:
    """All that is not true of the briefs."""
    return [f"{answer.replica} at {answer.sent:.2f}: {lie}" for answer in answers for lie in _lies(answer, outages)]


def _lies(answer: Seen, outages: Outages) -> Iterator[str]:
    span = answer.sent, answer.answered
    if outages.may_explain(answer.replica, *span):  # it was stopped in the middle: what it says is about other times
        return
    if answer.status is None:
        yield f"no answer from a healthy replica: {answer.error}"
    elif answer.status == 503:
        if not outages.may_explain("postgresql", *span):
            yield f"503 while the database was healthy: {answer.body}"
    elif answer.status != 200:
        yield f"{answer.status}: {answer.body}"
    else:
        yield from _lies_of_a_brief(answer, outages, span)


def _lies_of_a_brief(answer: Seen, outages: Outages, span: tuple[float, float]) -> Iterator[str]:
    sections = answer.body["sections"]
    missing = {name: section["reason"] for name, section in sections.items() if section["status"] == "unavailable"}
    stale = [name for name, section in sections.items() if section["status"] == "stale"]
    told = answer.headers.get("gateway-incomplete", "")
    if told != ", ".join(f"{name};reason={reason}" for name, reason in missing.items()):
        yield f"the header says {told!r}, the body {missing}"
    if answer.headers.get("gateway-stale", "") != ", ".join(stale):
        yield f"the header says stale are {answer.headers.get('gateway-stale')!r}, the body {stale}"
    if answer.body["complete"] == bool(missing) or answer.headers["gateway-complete"] != str(not missing).lower():
        yield f"complete is {answer.body['complete']}, with {missing}"
    for name, source in SOURCES.items():
        section = sections[name]
        # Stale without a reason: somebody else is just asking again, as it does once a minute.
        well = section["status"] == "ok" or (section["status"] == "stale" and section["reason"] is None)
        if not well and not outages.may_explain(source, *span):
            yield f"{name} is {section['status']} ({section['reason']}) while {source} was healthy"
        if well and name in {"observations", "popularity"} and outages.down_throughout(source, *span):
            yield f"{name} is ok while {source} was down"
        if section["status"] == "ok" and name == "weather":
            yield from _lies_of_its_age(section["age_s"], outages, span)
        if (section["data"] is None) != (section["status"] == "unavailable"):
            yield f"{name} is {section['status']} with data {section['data']}"


def _lies_of_its_age(age: float, outages: Outages, span: tuple[float, float]) -> Iterator[str]:
    """Weather that is `ok` is of the last minute, and was fetched from an upstream that was there."""
    if age > FRESH_FOR:
        yield f"weather is ok and {age} s old"
    fetched = span[0] - age - READ_LATE, span[1] - age
    stopped = any(outages.may_explain(it, *fetched) for it in outages.names() if it.startswith("gateway"))
    if outages.down_throughout("weather", *fetched) and not stopped:  # else it may have read late what came in time
        yield "weather is ok, and was fetched while it was down"
