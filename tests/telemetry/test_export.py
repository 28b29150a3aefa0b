"""The telemetry of a real gateway and a real worker, as it arrives at a receiver."""

from itertools import pairwise

import pytest

from gateway.metrics import GATEWAY_INSTRUMENTS, SECTIONS, WORKER_INSTRUMENTS
from gateway.process.exit_status import ExitStatus
from tests.support.entries import ENTRIES
from tests.telemetry.conftest import BRIEF_TRACE, CLIENT_SPAN, NOTE, REPORT_TRACE, Recording

SECTION_NAMES = ["weather", "outlook", "observations", "popularity"]


def test_clean_exit(recording: Recording) -> None:
    """Both processes end with status 0, and log no failed export."""
    assert recording.exit_statuses == [ExitStatus.OK, ExitStatus.OK]
    assert "telemetry not exported" not in [line["event"] for line in recording.gateway_lines + recording.worker_lines]


def test_startup_spans(recording: Recording) -> None:
    """The startup is a trace with a span for each entry. They follow each other within the span of the startup."""
    startup = recording.receiver.find("gateway", "startup")
    steps = recording.receiver.children(startup)

    assert startup.parent_id == ""
    assert [span.name for span in steps] == [f"enter {entry}" for entry in ENTRIES]
    assert all(earlier.end <= later.start for earlier, later in pairwise(steps))
    assert startup.start <= steps[0].start
    assert steps[-1].end <= startup.end


def test_teardown_spans(recording: Recording) -> None:
    """The teardown is a trace with a span for each entry, in reverse order. It is exported although the process ends then."""
    teardown = recording.receiver.find("gateway", "teardown")
    steps = recording.receiver.children(teardown)

    assert [span.name for span in steps] == [f"exit {entry}" for entry in reversed(ENTRIES)]
    assert not teardown.failed


def test_worker_spans(recording: Recording) -> None:
    """The worker has a startup and a teardown of its own."""
    startup = recording.receiver.find("gateway-worker", "startup")
    teardown = recording.receiver.find("gateway-worker", "teardown")

    names = [span.name for span in recording.receiver.children(startup)]
    assert names == [
        f"enter {entry}" for entry in ("database", "redis", "rabbitmq", "observations", "views", "cleanup")
    ]
    assert len(recording.receiver.children(teardown)) == len(names)


def test_section_spans(recording: Recording) -> None:
    """The span of a brief belongs to the trace of its client, and has a span for each section, with its status."""
    spans = recording.receiver.spans_of(BRIEF_TRACE)
    request = spans["GET /v1/places/{place_id}/brief"]
    sections = [spans[f"section {name}"] for name in SECTION_NAMES]

    assert request.parent_id == CLIENT_SPAN
    assert {span.parent_id for span in sections} == {request.span_id}
    assert {span.attributes["gateway.section.status"] for span in sections} == {"ok"}
    assert all(span.start <= span.end <= request.end for span in sections)


def test_report_is_traced_to_the_worker(recording: Recording) -> None:
    """The trace of a report has the request, the write of its group, and the processing of its event by the worker."""
    spans = recording.receiver.spans_of(REPORT_TRACE)
    request = spans["POST /v1/places/{place_id}/observations"]
    write = spans["store observations"]
    processing = spans["process gateway.observations"]

    assert request.parent_id == CLIENT_SPAN
    assert write.parent_id == processing.parent_id == request.span_id
    assert (write.service, processing.service) == ("gateway", "gateway-worker")
    assert processing.start >= write.start


def test_log_lines_have_ids(recording: Recording) -> None:
    """A log line of a request has its id and its trace, also as a record of OpenTelemetry. So have those of the startup."""
    (line,) = (line for line in recording.gateway_lines if line["event"] == "observation stored")
    (record,) = (log for log in recording.receiver.logs if log.body == "observation stored")
    startup = recording.receiver.find("gateway", "startup")
    entered = [line for line in recording.gateway_lines if line["event"] == "entered"]

    assert line["trace_id"] == record.trace_id == REPORT_TRACE
    assert line["request_id"] == record.attributes["request_id"]
    assert len(line["span_id"]) == 16
    assert {line["trace_id"] for line in entered} == {startup.trace_id}
    assert len({line["span_id"] for line in entered}) == len(entered)


@pytest.mark.parametrize(
    ("service", "instruments"), [("gateway", GATEWAY_INSTRUMENTS), ("gateway-worker", WORKER_INSTRUMENTS)]
)
def test_metrics_arrive(recording: Recording, service: str, instruments: list[object]) -> None:
    """Each metric of the process arrives."""
    missing = {instrument.name for instrument in instruments} - recording.receiver.names(service)  # type: ignore[attr-defined]

    assert missing == set()


def test_values_of_metrics(recording: Recording) -> None:
    """The values are those of one brief, one report, and the entries of the lifespan."""
    value = recording.receiver.value

    assert value("gateway", SECTIONS.name, gateway__section__status="ok") == len(SECTION_NAMES)
    assert value("gateway", "gateway.weather_cache.lookups") == 1
    assert all(value("gateway", "gateway.entry.healthy", gateway__entry=name) == 1 for name in ENTRIES)
    assert value("gateway", "db.client.connection.max", db__client__connection__pool__name="redis") == 20
    assert value("gateway", "gateway.lifecycle.duration", gateway__step="exit") > 0
    assert value("gateway", "http.server.request.duration", http__request__method="POST") == 1


def test_prometheus_metrics(recording: Recording) -> None:
    """The gateway serves its metrics at /metrics, and the worker at the address of the standard variables."""
    scrape, worker_scrape = recording.scrape, recording.worker_scrape

    assert scrape.status_code == worker_scrape.status_code == 200
    assert scrape.headers["Content-Type"].startswith("text/plain; version=")
    assert scrape.headers["Cache-Control"] == "no-store"
    assert 'gateway_brief_sections_total{gateway_section="weather",gateway_section_status="ok"} 1.0' in scrape.text
    assert "gateway_messages_rejected_total" in worker_scrape.text


def test_unknown_version_of_the_format(recording: Recording) -> None:
    """A client that accepts a version that is no number gets the metrics in the default format."""
    scrape = recording.scrape_of_unknown_version

    assert scrape.status_code == 200
    assert scrape.headers["Content-Type"] == recording.scrape.headers["Content-Type"]


def test_nothing_secret_is_exported(recording: Recording) -> None:
    """No password and no note of a report is in any export."""
    exported = b"".join(recording.receiver.bodies)

    assert len(recording.secrets) >= 4
    assert [secret for secret in [*recording.secrets, NOTE] if secret.encode() in exported] == []
