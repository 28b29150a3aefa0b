"""The settings of FastAPI's own telemetry: a span, a duration and the errors of each request."""

import os
from collections.abc import MutableMapping
from typing import Any

from fastapi.telemetry import TelemetryConfig

from gateway.api.health import OPERATION_PATHS
from gateway.telemetry.providers import records_logs, records_metrics, records_traces


def telemetry_config() -> TelemetryConfig:
    """Return settings that record everything if OpenTelemetry is configured, or FastAPI has to configure it, else nothing.

    With its defaults, FastAPI looks the providers up in each request, which is 5% of a brief (docs/performance.md).
    """
    is_configured = records_traces() or records_metrics() or records_logs()
    auto_configure = os.environ.get("FASTAPI_OTEL_AUTO_CONFIGURE", "").lower() == "true" and not is_configured
    enabled = is_configured or auto_configure
    return {
        "tracing": enabled,
        "metrics": enabled,
        "logs": enabled,
        "operation_spans": False,  # the sections of a brief say more than the steps of the framework
        "auto_configure": auto_configure,  # it would add its exporters to those of the providers
        "exclude": is_excluded,
    }


def is_excluded(scope: MutableMapping[str, Any]) -> bool:
    """Return whether a request is not recorded."""
    path: str = scope.get("path", "")
    return path.removeprefix(scope.get("root_path", "")) in OPERATION_PATHS
