"""Whether FastAPI's own telemetry has anything to do."""

import os

from fastapi.telemetry import TelemetryConfig
from opentelemetry import _logs, metrics, trace

_STAND_INS = ("opentelemetry.trace", "opentelemetry.metrics", "opentelemetry._logs")
"""Where OpenTelemetry's API has the providers that record nothing. There is no public way to ask."""


def telemetry() -> TelemetryConfig:
    """What FastAPI is to record: all it can if OpenTelemetry is set up by now or FastAPI shall do that, else nothing.

    It would look for itself, but with each request, which takes 10 us (docs/performance.md).
    """
    providers = (trace.get_tracer_provider(), metrics.get_meter_provider(), _logs.get_logger_provider())
    is_set_up = any(not type(provider).__module__.startswith(_STAND_INS) for provider in providers)
    shall_be = os.environ.get("FASTAPI_OTEL_AUTO_CONFIGURE", "").lower() == "true"
    records = is_set_up or shall_be
    return {"tracing": records, "metrics": records, "logs": records}
