"""Trace contexts in W3C's format `traceparent`, which take a trace from a request to the event that it causes.

A context is passed on only if its trace is sampled. Without an SDK there is none.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes

TRACEPARENT = "traceparent"  # its name in the headers of a message

_TRACER_NAME = "gateway"
_propagator = TraceContextTextMapPropagator()


def current_traceparent() -> str | None:
    """Return the context of the current span, or None without one or if its trace is not sampled."""
    if not trace.get_current_span().get_span_context().trace_flags.sampled:
        return None
    headers: dict[str, str] = {}
    _propagator.inject(headers)
    return headers.get(TRACEPARENT)


def span_of_requests(name: str, traceparents: Sequence[str | None]) -> AbstractContextManager[object]:
    """Return a context manager for the span of work that several requests share.

    The span belongs to the trace of the first one, and has links to the others. Without any context, there is no span.
    """
    if not any(traceparents):
        return nullcontext()
    contexts = [context for text in traceparents if (context := _parse(text)) is not None]
    if not contexts:
        return nullcontext()
    links = [Link(trace.get_current_span(context).get_span_context()) for context in contexts[1:]]
    return trace.get_tracer(_TRACER_NAME).start_as_current_span(name, contexts[0], links=links)


def span_of_message(name: str, traceparent: object, attributes: Attributes) -> AbstractContextManager[object]:
    """Return a context manager for the span of the processing of a message, in the trace that caused it.

    Without a valid context of a sampled trace, there is no span.
    """
    context = _parse(traceparent)
    if context is None:
        return nullcontext()
    tracer = trace.get_tracer(_TRACER_NAME)
    return tracer.start_as_current_span(name, context, SpanKind.CONSUMER, attributes)


def _parse(traceparent: object) -> Context | None:
    """Return the context in a text of any origin, or None if it is invalid or not sampled."""
    if not isinstance(traceparent, str):
        return None
    context = _propagator.extract({TRACEPARENT: traceparent})
    return context if trace.get_current_span(context).get_span_context().trace_flags.sampled else None
