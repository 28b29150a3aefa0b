"""What a bad day was like: what was broken, what the clients saw, and how long it took until all was well again."""

from collections import Counter
from collections.abc import Iterable
from statistics import median

from tests.chaos.clients import Seen
from tests.chaos.oracle import SOURCES
from tests.chaos.outages import Outage, Outages


def report(outages: Outages, seen: list[Seen], written: list[Seen]) -> str:
    """As Markdown."""
    return "\n\n".join([_of_outages(outages, seen, written), _of_reads(seen), _of_writes(written)])


def _of_outages(outages: Outages, seen: list[Seen], written: list[Seen]) -> str:
    rows = []
    for name, how in sorted({(outage.name, outage.how) for outage in outages.all}):
        these = [outage for outage in outages.all if (outage.name, outage.how) == (name, how)]
        down = [outage.ended - outage.began for outage in these]
        back = [after for outage in these if (after := _well_after(outage, seen, written)) is not None]
        recovery = f"{median(back):.2f} / {max(back):.2f}" if back else "not felt by clients"
        rows.append(f"| {name} | {how} | {len(these)} | {median(down):.1f} | {recovery} |")
    head = "| what | how | times | away, s (median) | first good answer after its return, s (median / most) |"
    return "\n".join([head, "| --- | --- | --- | --- | --- |", *rows])


def _well_after(outage: Outage, seen: list[Seen], written: list[Seen]) -> float | None:
    """Seconds from the return of what was broken to the first answer that needed it and was good."""
    sections = [section for section, source in SOURCES.items() if source == outage.name]
    if sections:
        good = (it for it in seen if it.status == 200 and it.body["sections"][sections[0]]["status"] == "ok")
    elif outage.name.startswith("gateway"):
        good = (it for it in [*seen, *written] if it.replica == outage.name and it.status in {200, 201})
    else:
        return None  # RabbitMQ and the worker: no client waits for them
    return next((max(0.0, it.answered - outage.ended) for it in good if it.answered >= outage.ended), None)


def _of_reads(seen: list[Seen]) -> str:
    statuses = Counter(_status(answer) for answer in seen)
    sections: Counter[str] = Counter()
    for answer in seen:
        if answer.status == 200:
            sections.update(_section(name, it) for name, it in answer.body["sections"].items())
    rows = [f"| {what} | {times} |" for counter in (statuses, sections) for what, times in sorted(counter.items())]
    return "\n".join(
        [f"{len(seen)} briefs were asked for; {_times(seen)}.", "", "| answer | times |", "| --- | --- |", *rows]
    )


def _of_writes(written: list[Seen]) -> str:
    rows = [f"| {what} | {times} |" for what, times in sorted(Counter(map(_status, written)).items())]
    return "\n".join(
        [f"{len(written)} reports were sent; {_times(written)}.", "", "| answer | times |", "| --- | --- |", *rows]
    )


def _status(answer: Seen) -> str:
    return "no answer" if answer.status is None else str(answer.status)


def _section(name: str, section: dict[str, object]) -> str:
    reason = f", {section['reason']}" if section["reason"] else ""
    return f"{name}: {section['status']}{reason}"


def _times(answers: Iterable[Seen]) -> str:
    times = sorted(answer.answered - answer.sent for answer in answers if answer.status is not None)
    return f"p50 {_ms(times, 0.5)}, p99 {_ms(times, 0.99)}, the slowest {_ms(times, 1)}"


def _ms(times: list[float], share: float) -> str:
    return f"{times[min(len(times) - 1, int(len(times) * share))] * 1000:.0f} ms"
