"""Checks whether the briefs were correct, given the outages at the time."""

from collections.abc import Iterator

from tests.chaos.clients import Response
from tests.chaos.outages import Outages

# The backend whose outage explains a missing section. (Without Redis, the weather is fetched from the upstream.)
BACKENDS = {"weather": "weather", "outlook": "weather", "observations": "postgresql", "popularity": "redis"}

MAX_FRESH_AGE = 60.0  # of weather with status `ok`
MAX_TRANSFER = 0.2  # a response may arrive this long after its sender, the upstream, went down


def violations(responses: list[Response], outages: Outages) -> list[str]:
    """Return a line for each false statement of a brief, and for each error without an outage that explains it."""
    return [
        f"{response.replica} at {response.sent_at:.2f}: {violation}"
        for response in responses
        for violation in _violations(response, outages)
    ]


def _violations(response: Response, outages: Outages) -> Iterator[str]:
    span = response.sent_at, response.received_at
    if outages.may_explain(response.replica, *span):  # it was suspended for a while, so its statements are outdated
        return
    if response.status is None:
        yield f"no response from a healthy replica: {response.error}"
    elif response.status == 503:
        if not outages.may_explain("postgresql", *span):
            yield f"503 while the database was healthy: {response.body}"
    elif response.status != 200:
        yield f"{response.status}: {response.body}"
    else:
        yield from _violations_of_a_brief(response, outages, span)


def _violations_of_a_brief(response: Response, outages: Outages, span: tuple[float, float]) -> Iterator[str]:
    sections = response.body["sections"]
    missing = {name: section["reason"] for name, section in sections.items() if section["status"] == "unavailable"}
    stale = [name for name, section in sections.items() if section["status"] == "stale"]
    incomplete = response.headers.get("gateway-incomplete", "")
    if incomplete != ", ".join(f"{name};reason={reason}" for name, reason in missing.items()):
        yield f"the header has {incomplete!r}, the body {missing}"
    if response.headers.get("gateway-stale", "") != ", ".join(stale):
        yield f"stale: the header has {response.headers.get('gateway-stale')!r}, the body {stale}"
    if response.body["complete"] == bool(missing) or response.headers["gateway-complete"] != str(not missing).lower():
        yield f"complete is {response.body['complete']}, with {missing}"
    for name, backend in BACKENDS.items():
        section = sections[name]
        # Stale without a reason: another request is refreshing the weather, as happens once a minute.
        healthy = section["status"] == "ok" or (section["status"] == "stale" and section["reason"] is None)
        if not healthy and not outages.may_explain(backend, *span):
            yield f"{name} is {section['status']} ({section['reason']}) while {backend} was healthy"
        if healthy and name in {"observations", "popularity"} and outages.down_throughout(backend, *span):
            yield f"{name} is ok while {backend} was down"
        if section["status"] == "ok" and name == "weather":
            yield from _violations_of_its_age(section["age_s"], outages, span)
        if (section["data"] is None) != (section["status"] == "unavailable"):
            yield f"{name} is {section['status']} with data {section['data']}"


def _violations_of_its_age(age: float, outages: Outages, span: tuple[float, float]) -> Iterator[str]:
    """Weather with status `ok` is at most a minute old, and was fetched while the upstream was up."""
    if age > MAX_FRESH_AGE:
        yield f"weather is ok and {age} s old"
    fetched = span[0] - age - MAX_TRANSFER, span[1] - age
    gateways = [name for name in outages.names() if name.startswith("gateway")]
    # A gateway that was suspended meanwhile may have read a response much later than it arrived.
    read_late = any(outages.may_explain(name, *fetched) for name in gateways)
    if outages.down_throughout("weather", *fetched) and not read_late:
        yield "weather is ok, and was fetched while the upstream was down"
