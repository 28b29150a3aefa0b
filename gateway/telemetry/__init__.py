"""Telemetry with OpenTelemetry: traces, metrics and logs, off unless the standard variables `OTEL_*` configure it.

Only `sdk.py` imports the SDK, and only if it is configured. The other modules use the API, which FastAPI needs as well, and
which records nothing without an SDK.
"""
