"""Whether the clients were told the truth, held against what was broken at the time."""

from collections.abc import Iterator

from tests.chaos.clients import Seen
from tests.chaos.outages import Outages

SOURCES = {"weather": "weather", "outlook": "weather", "observations": "postgresql", "popularity": "redis"}
"""Whose failure a section may be missing for. (The weather is asked for upstream when Redis is away.)"""


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
        if (section["data"] is None) != (section["status"] == "unavailable"):
            yield f"{name} is {section['status']} with data {section['data']}"
