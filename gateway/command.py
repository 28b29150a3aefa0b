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

T = TypeVar("T")

# libuv uses one thread for each DNS lookup. With its default of four threads, lookups of one host name whose DNS server
# does not respond could block those of all other backends.
UV_THREADPOOL_SIZE = "32"

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error, and log more.")]


def load_settings(*, debug: bool, level: int = logging.INFO) -> Settings:
    """Configure logging and libuv, and return the settings. If they are invalid, exit before anything is opened.

    Variables that look like a setting and are none are reported first, because one of them may be the reason.
    """
    configure_logging(logging.DEBUG if debug else level)
    os.environ.setdefault("UV_THREADPOOL_SIZE", UV_THREADPOOL_SIZE)
    for line in unknown_settings():
        print_error(f"warning: {line}", None, debug=debug)
    try:
        return read_settings()
    except InvalidSettingsError as error:
        exit_with_error(str(error).replace("\n", "\ngateway: "), error, debug=debug)


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
