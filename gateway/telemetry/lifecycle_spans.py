"""The startup and the teardown as traces: a span for each, with a span for each entry in it, at the times of the journal."""

import time
from collections.abc import Callable

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, Status, StatusCode

from gateway.lifecycle import EventType, LifecycleEvent, format_error
from gateway.telemetry.providers import records_traces

_STEPS = {EventType.ENTERING: "enter", EventType.EXITING: "exit"}  # by the events with which they begin

Listener = Callable[[LifecycleEvent], None]


def traced(listener: Listener) -> Listener:
    """Return a listener of a journal that calls `listener`, and also writes the spans if traces are recorded.

    It calls `listener` inside the span of the event, so that the log line of an event has the ids of its span.
    """
    return _LifecycleSpans(listener) if records_traces() else listener


class _LifecycleSpans:
    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._tracer = trace.get_tracer("gateway")
        self._origin: int | None = None  # of the times in the journal, in nanoseconds since 1970
        self._phase: Span | None = None  # the startup or the teardown; None between them
        self._steps: dict[str, Span] = {}  # by entry

    def __call__(self, event: LifecycleEvent) -> None:
        if self._origin is None:
            self._origin = time.time_ns() - _nanoseconds(event.at)
            self._phase = self._tracer.start_span("startup", Context(), start_time=self._origin)
        at = self._origin + _nanoseconds(event.at)
        if event.type is EventType.STOPPING:
            self._begin_teardown(at)
        span = self._phase if event.name is None else self._step_of(event.name, event.type, at)
        if span is None:
            self._listener(event)
            return
        with trace.use_span(span):
            self._listener(event)
        if event.error is not None:
            span.record_exception(event.error, timestamp=at)
            span.set_status(Status(StatusCode.ERROR, format_error(event.error)))
        if event.name is not None and event.type not in _STEPS:
            del self._steps[event.name]
            span.end(at)
        elif event.type in {EventType.STARTED, EventType.STOPPED}:
            self._phase = None
            span.end(at)

    def _begin_teardown(self, at: int) -> None:
        if self._phase is not None:
            self._phase.set_status(Status(StatusCode.ERROR, "the startup was not completed"))
            self._phase.end(at)
        self._phase = self._tracer.start_span("teardown", Context(), start_time=at)

    def _step_of(self, entry: str, event_type: EventType, at: int) -> Span:
        """Return the span of the step that an event begins or ends. An event that does neither, such as a crash, has its own."""
        if entry not in self._steps:
            parent = Context() if self._phase is None else trace.set_span_in_context(self._phase)
            name = f"{_STEPS.get(event_type, event_type.value)} {entry}"
            self._steps[entry] = self._tracer.start_span(
                name, parent, attributes={"gateway.entry": entry}, start_time=at
            )
        return self._steps[entry]


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1_000_000_000)
