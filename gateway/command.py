"""The parts that all commands share: the settings, the event loop, and error messages."""

import asyncio
import contextlib
import logging
import os
import traceback
from collections.abc import Coroutine
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from gateway.logs import configure_logging
from gateway.process.exit_status import ExitStatus
from gateway.process.watchdog import run_without_waiting_for_threads
from gateway.settings import InvalidSettingsError, Settings, read_settings, unknown_settings
from gateway.telemetry import configuration
from gateway.telemetry.configuration import Telemetry
from gateway.telemetry.variables import InvalidTelemetryError

T = TypeVar("T")

# libuv uses one thread for each DNS lookup. With its default of four threads, lookups of one host name whose DNS server
# does not respond could block those of all other backends.
UV_THREADPOOL_SIZE = "32"

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error, and log more.")]


def load_settings(*, debug: bool, level: int = logging.INFO) -> Settings:
    """Return the settings, with logging and libuv configured. If they are invalid, exit before anything is opened.

    Variables that look like a setting and are none are reported first, because one of them may be the reason.
    """
    os.environ.setdefault("UV_THREADPOOL_SIZE", UV_THREADPOOL_SIZE)
    for line in unknown_settings():
        print_error(f"warning: {line}", None, debug=debug)
    try:
        settings = read_settings()
    except InvalidSettingsError as error:
        exit_with_error(str(error).replace("\n", "\ngateway: "), error, debug=debug)
    configure_logging(logging.DEBUG if debug else level, settings.log_format)
    return settings


def start_telemetry(
    service: str, settings: Settings, *, debug: bool, default_prometheus: tuple[str, int] | None = None
) -> Telemetry:
    """Start the telemetry, and add the ids of traces to the log lines. Exit if a variable is invalid."""
    from gateway.telemetry.log_fields import add_trace_ids  # noqa: PLC0415 - not every command needs OpenTelemetry's API
    from gateway.telemetry.providers import records_traces  # noqa: PLC0415

    try:
        telemetry = configuration.start_telemetry(service, default_prometheus=default_prometheus)
    except InvalidTelemetryError as error:
        exit_with_error(str(error), error, debug=debug)
    if records_traces():
        configure_logging(logging.DEBUG if debug else logging.INFO, settings.log_format, processors=[add_trace_ids])
    return telemetry


def run(coro: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine, and return its result. An interrupt exits with its status."""
    try:
        return run_without_waiting_for_threads(coro)
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(ExitStatus.INTERRUPTED) from None


def exit_with_error(
    message: str, error: BaseException, *, debug: bool, status: int = ExitStatus.START_FAILED
) -> NoReturn:
    """Print an error, and exit."""
    print_error(message, error, debug=debug)
    raise typer.Exit(status)


def print_error(message: str, error: BaseException | None, *, debug: bool) -> None:
    """Print an error, with its traceback for debugging."""
    with contextlib.suppress(OSError):  # the terminal has been closed
        if debug and error is not None:
            traceback.print_exception(error)
        typer.echo(f"gateway: {message}", err=True)
