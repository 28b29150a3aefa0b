"""The spans of the sections of a brief, written after the brief, from the times that its sections have."""

import time
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import Status as SpanStatus
from opentelemetry.trace import StatusCode

from gateway.briefs.models import Section, Sections, Status

_NANOSECONDS_PER_MILLISECOND = 1_000_000


def record_sections(place_id: int, sections: Sections, started_at: float) -> None:
    """Write a span for each section, if the trace of the request is recorded.

    Args:
        place_id: the place of the brief.
        sections: of the brief.
        started_at: the time (`time.monotonic()`) from which the sections measure their durations.
    """
    if not trace.get_current_span().is_recording():
        return
    start = time.time_ns() - int((time.monotonic() - started_at) * 1000 * _NANOSECONDS_PER_MILLISECOND)
    after_weather = start + _duration(sections.weather)  # the outlook is predicted from the weather
    tracer = trace.get_tracer("gateway")
    for name, section in sections.items():
        section_start = after_weather if name == "outlook" else start
        attributes: dict[str, str | float] = {
            "gateway.place.id": place_id,
            "gateway.section.status": section.status.value,
        }
        if section.reason is not None:
            attributes["gateway.section.reason"] = section.reason.value
        if section.age_s is not None:
            attributes["gateway.section.age"] = section.age_s
        span = tracer.start_span(f"section {name}", attributes=attributes, start_time=section_start)
        if section.status is Status.UNAVAILABLE:
            span.set_status(SpanStatus(StatusCode.ERROR, section.reason))
        span.end(section_start + _duration(section))


def _duration(section: Section[Any]) -> int:
    """Return the duration of a section in nanoseconds."""
    return int(section.took_ms * _NANOSECONDS_PER_MILLISECOND)
