"""The telemetry settings of the app."""

import os

from fastapi.telemetry import TelemetryConfig
from opentelemetry import _logs, metrics, trace

# The modules of OpenTelemetry's own providers, which record nothing. Its API has no public query for this.
_PLACEHOLDER_MODULES = ("opentelemetry.trace", "opentelemetry.metrics", "opentelemetry._logs")


def telemetry_config() -> TelemetryConfig:
    """Return settings that record everything if OpenTelemetry is configured, or FastAPI has to configure it, else nothing.

    With its defaults, FastAPI looks the providers up in each request, which is 5% of a brief (docs/performance.md).
    """
    providers = (trace.get_tracer_provider(), metrics.get_meter_provider(), _logs.get_logger_provider())
    is_configured = any(not type(provider).__module__.startswith(_PLACEHOLDER_MODULES) for provider in providers)
    auto_configure = os.environ.get("FASTAPI_OTEL_AUTO_CONFIGURE", "").lower() == "true"
    enabled = is_configured or auto_configure
    return {"tracing": enabled, "metrics": enabled, "logs": enabled}
