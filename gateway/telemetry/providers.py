"""Which signals are recorded: those for which OpenTelemetry has a provider of an SDK."""

from opentelemetry import _logs, metrics, trace

# The modules of OpenTelemetry's own providers, which record nothing. Its API has no public query for this.
_PLACEHOLDER_MODULES = ("opentelemetry.trace", "opentelemetry.metrics", "opentelemetry._logs")


def records_traces() -> bool:
    return _records(trace.get_tracer_provider())


def records_metrics() -> bool:
    return _records(metrics.get_meter_provider())


def records_logs() -> bool:
    return _records(_logs.get_logger_provider())


def _records(provider: object) -> bool:
    return not type(provider).__module__.startswith(_PLACEHOLDER_MODULES)
