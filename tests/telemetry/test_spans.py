"""The spans of a run that fails, of groups of reports, and of messages with any header."""

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.lifecycle import EventType, Journal, LifecycleStack, StartError, TeardownError
from gateway.observations.groups import GroupStore, Submission
from gateway.observations.reports import NewObservation, Report
from gateway.schema.tables import outbox
from gateway.telemetry.lifecycle_spans import traced
from gateway.telemetry.trace_context import current_traceparent, span_of_message, span_of_requests
from tests.lifecycle.fakes import enter, hang, raise_error
from tests.observations.conftest import PLACES, database, database_url, owner, template_database

__all__ = ["database", "database_url", "owner", "template_database"]

CONTEXTS = [f"00-{digit * 32}-{digit * 16}-01" for digit in "123"]
INVALID_CONTEXTS = [
    None,
    7,
    "",
    "00-" + "0" * 32 + "-" + "1" * 16 + "-01",
    CONTEXTS[0].upper() + "x",
    CONTEXTS[0][:-1] + "0",
]


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def traced_stack(**options: float) -> LifecycleStack:
    return LifecycleStack(journal=Journal(listeners=[traced(lambda _: None)]), **options)


class TestLifecycle:
    async def test_failed_startup(self, spans: InMemorySpanExporter) -> None:
        """The span of the entry that failed has the error, and that of the startup a status. The rollback is a teardown."""
        with pytest.raises(StartError):
            async with traced_stack() as stack:
                await enter(stack, "first")
                await enter(stack, "second", on_enter=raise_error)
        found = by_name(spans)

        assert list(found) == ["enter first", "enter second", "startup", "exit first", "teardown"]
        assert [found[name].status.status_code is StatusCode.ERROR for name in found] == [
            False,
            True,
            True,
            False,
            False,
        ]
        assert found["enter second"].events[0].name == "exception"
        assert found["enter second"].parent == found["startup"].context

    async def test_aborted_entry(self, spans: InMemorySpanExporter) -> None:
        """The span of an entry that had to be aborted ends with the abort, and has the reason."""
        with pytest.raises(TeardownError):
            async with traced_stack() as stack:
                await enter(stack, "first", on_exit=hang, stop_timeout=0.05)
                stack.mark_started()
        found = by_name(spans)

        assert "not released within" in str(found["exit first"].status.description)
        assert found["teardown"].end_time is not None

    async def test_crash_between_the_phases(self, spans: InMemorySpanExporter) -> None:
        """A crash while the gateway serves has a span of its own, which is no part of the startup."""
        journal = Journal(listeners=[traced(lambda _: None)])
        for event_type in (EventType.STARTED, EventType.CRASHED, EventType.STOPPING, EventType.STOPPED):
            is_crash = event_type is EventType.CRASHED
            journal.record(event_type, "relay" if is_crash else None, ValueError("a bug") if is_crash else None)
        found = by_name(spans)

        assert list(found) == ["startup", "crashed relay", "teardown"]
        assert found["crashed relay"].parent is None
        assert found["crashed relay"].status.description == "ValueError: a bug"

    def test_no_spans_without_provider(self) -> None:
        """Without a provider, the listener is used as it is."""
        listener = print

        assert traced(listener) is listener


class TestContexts:
    @pytest.mark.usefixtures("spans")
    def test_current_context(self) -> None:
        """The context of the current span is passed on."""
        assert current_traceparent() is None
        with trace.get_tracer("test").start_as_current_span("span") as span:
            context = span.get_span_context()
            found = current_traceparent() or ""

        assert found.startswith(f"00-{context.trace_id:032x}-{context.span_id:016x}-")

    def test_context_that_is_not_sampled(self) -> None:
        """The context of a trace that is not sampled is not passed on."""
        provider = TracerProvider(ALWAYS_OFF, shutdown_on_exit=False)
        with provider.get_tracer("test").start_as_current_span("span"):
            assert current_traceparent() is None

    def test_span_of_several_requests(self, spans: InMemorySpanExporter) -> None:
        """The span of a group is in the trace of its first request, and has links to the others."""
        with span_of_requests("group", [None, *CONTEXTS]):
            pass
        (span,) = spans.get_finished_spans()

        assert span.parent is not None
        assert f"{span.parent.trace_id:032x}" == "1" * 32
        assert [f"{link.context.trace_id:032x}" for link in span.links] == ["2" * 32, "3" * 32]

    @pytest.mark.parametrize("context", INVALID_CONTEXTS)
    def test_invalid_context(self, spans: InMemorySpanExporter, context: object) -> None:
        """A message or a request without a valid context of a sampled trace has no span."""
        with span_of_message("message", context, {}), span_of_requests("group", [None]):
            pass

        assert spans.get_finished_spans() == ()


def report(key: str | None, place: int, context: str | None) -> Submission:
    return Submission(Report(NewObservation(place, 1.5, "sun", None), key, context))


@pytest.mark.usefixtures("spans")
async def test_contexts_of_a_group(database: AsyncEngine) -> None:
    """Each event has the context of its report. Those that cannot be distinguished have that of the group."""
    places = [place[0] for place in PLACES]
    group = [
        report("key", places[0], CONTEXTS[0]),
        report("key", places[0], CONTEXTS[1]),  # not stored again
        report(None, places[1], CONTEXTS[1]),
        report(None, places[2], CONTEXTS[2]),
        report(None, places[2], None),
        report("other key", places[2], None),
    ]
    with span_of_requests("group", [submission.report.traceparent for submission in group]):
        shared = current_traceparent()
        await GroupStore(database, on_stored=lambda: None).store(group)
    async with database.begin() as connection:
        rows = await connection.execute(select(outbox.c.traceparent).order_by(outbox.c.id))
        found = list(rows.scalars())

    assert found == [CONTEXTS[0], CONTEXTS[1], shared, shared, None]
