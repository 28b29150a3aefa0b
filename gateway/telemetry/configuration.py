"""The start and the end of the telemetry of a process."""

from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeAlias

from gateway.telemetry.variables import Exporters, InvalidTelemetryError, prometheus_address, read_exporters

EXTRA = "gateway[telemetry]"

# Returns the metrics in the format that the `Accept` header of a scrape requests, and the type of the format. It may wait
# for the event loop, so it must run in a thread.
Scrape: TypeAlias = Callable[[str], tuple[bytes, str]]


class Telemetry:
    """The telemetry of a process, until the end of its block. This one exports nothing.

    Attributes:
        scrape: returns the metrics for Prometheus; None if they are not configured.
    """

    scrape: Scrape | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Export what is left, in a limited time."""


def start_telemetry(service: str, *, default_prometheus: tuple[str, int] | None = None) -> Telemetry:
    """Configure OpenTelemetry for the process as the variables request it, before anything looks its providers up.

    Args:
        service: the name of the service, unless a variable has another one.
        default_prometheus: the address for scrapes, unless the variables have another one. None: there is none of its own.

    Raises:
        InvalidTelemetryError: a variable is invalid, the SDK is not installed, or the address cannot be used.
    """
    exporters = read_exporters()
    if not exporters:
        return Telemetry()
    address = prometheus_address() or default_prometheus
    return _start_sdk(exporters, service, address if "prometheus" in exporters.metrics else None)


def _start_sdk(exporters: Exporters, service: str, prometheus: tuple[str, int] | None) -> Telemetry:
    try:
        from gateway.telemetry.sdk import SdkTelemetry  # noqa: PLC0415 - an optional and slow import
    except ModuleNotFoundError as error:
        raise InvalidTelemetryError(
            f"{exporters.variable} needs the SDK of OpenTelemetry: install `{EXTRA}`, or set OTEL_SDK_DISABLED=true "
            f"({error.name} is missing)"
        ) from error
    try:
        return SdkTelemetry(exporters, service, prometheus)
    except ValueError as error:
        raise InvalidTelemetryError(f"a variable OTEL_* is invalid: {error}") from error
