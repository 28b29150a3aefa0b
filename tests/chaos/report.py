"""Describes a run: the outages, the responses, and the time from the end of each outage to the next good response."""

from collections import Counter
from collections.abc import Iterable
from statistics import median

from tests.chaos.clients import Response
from tests.chaos.oracle import BACKENDS
from tests.chaos.outages import PARTIAL_FAULTS, Outage, Outages


def report(outages: Outages, reads: list[Response], writes: list[Response]) -> str:
    """Return the report as Markdown."""
    return "\n\n".join(
        [
            _table_of_outages(outages, reads, writes),
            f"{len(reads)} briefs were requested: {_durations(reads)}.",
            _table_of_counts(Counter(map(_status, reads)), _section_counts(reads)),
            f"{len(writes)} observations were sent: {_durations(writes)}.",
            _table_of_counts(Counter(map(_status, writes))),
        ]
    )


def _table_of_outages(outages: Outages, reads: list[Response], writes: list[Response]) -> str:
    rows = []
    for name, fault in sorted({(outage.name, outage.fault) for outage in outages.all}):
        same_kind = [outage for outage in outages.all if (outage.name, outage.fault) == (name, fault)]
        durations = [outage.ended_at - outage.started_at for outage in same_kind]
        recoveries = [it for outage in same_kind if (it := _recovery(outage, reads, writes)) is not None]
        recovery = f"{median(recoveries):.2f} / {max(recoveries):.2f}" if recoveries else "not visible to clients"
        rows.append(f"| {name} | {fault} | {len(same_kind)} | {median(durations):.1f} | {recovery} |")
    head = (
        "| server | fault | outages | duration, s (median) | first good response after the outage, s (median / max) |"
    )
    return "\n".join([head, "| --- | --- | --- | --- | --- |", *rows])


def _recovery(outage: Outage, reads: list[Response], writes: list[Response]) -> float | None:
    """Return the seconds from the end of an outage to the first good response that needed the server."""
    sections = [section for section, backend in BACKENDS.items() if backend == outage.name]
    if outage.name == "postgresql" and outage.fault in PARTIAL_FAULTS:
        good = (it for it in writes if it.status == 201)
    elif sections:
        good = (it for it in reads if it.status == 200 and it.body["sections"][sections[0]]["status"] == "ok")
    elif outage.name.startswith("gateway"):
        good = (it for it in [*reads, *writes] if it.replica == outage.name and it.status in {200, 201})
    else:
        return None  # no request waits for RabbitMQ or the worker
    return next((it.received_at - outage.ended_at for it in good if it.received_at >= outage.ended_at), None)


def _section_counts(reads: list[Response]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for response in reads:
        if response.status == 200:
            counts.update(_section(name, section) for name, section in response.body["sections"].items())
    return counts


def _table_of_counts(*counters: Counter[str]) -> str:
    rows = [f"| {response} | {count} |" for counter in counters for response, count in sorted(counter.items())]
    return "\n".join(["| response | count |", "| --- | --- |", *rows])


def _status(response: Response) -> str:
    return "no response" if response.status is None else str(response.status)


def _section(name: str, section: dict[str, object]) -> str:
    reason = f", {section['reason']}" if section["reason"] else ""
    return f"{name}: {section['status']}{reason}"


def _durations(responses: Iterable[Response]) -> str:
    durations = sorted(it.received_at - it.sent_at for it in responses if it.status is not None)
    return f"p50 {_ms(durations, 0.5)}, p99 {_ms(durations, 0.99)}, max {_ms(durations, 1)}"


def _ms(durations: list[float], share: float) -> str:
    return f"{durations[min(len(durations) - 1, int(len(durations) * share))] * 1000:.0f} ms"
