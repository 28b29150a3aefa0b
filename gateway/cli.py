"""The `gateway` command."""

# What a command needs is imported when it runs: serving needs no Alembic, and migrating no FastAPI.
# ruff: noqa: PLC0415

import asyncio
import contextlib
import gc
import logging
import os
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from gateway.process.watchdog import end, run
from gateway.settings import InvalidSettingsError, Settings, read_settings

T = TypeVar("T")

FAILED_CHECK = 1
FAILED_START = 3
UNCLEAN_STOP = 4
INTERRUPTED = 130

COLLECT_AFTER = 10_000
"""How many objects more there have to be before the garbage collector looks for cycles. With Python's 700 it looks at what is imported
again and again, and later hundreds of times a second: the requests under way alone have more."""

NAMES_AT_ONCE = "32"
"""How many names can be looked up at once: libuv has a thread for each, and four if it is not told. One backend whose name
nobody answers for takes these four, and then no other could be connected to."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="One FastAPI service that answers a question by asking several backends at once.",
)

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of what fails, and log more.")]
Host = Annotated[str, typer.Option(help="The address to listen on.")]
Port = Annotated[int, typer.Option(help="The port to listen on; 0 takes a free one.", min=0, max=65535)]


@app.command()
def serve(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    *,
    timeline: Annotated[bool, typer.Option("--timeline", help="Show the timeline of the startup.")] = False,
    debug: Debug = False,
) -> None:
    """Serve until SIGINT or SIGTERM stops it; a second signal forces the stop."""
    settings = _begin(debug=debug)
    gc.set_threshold(COLLECT_AFTER)
    from gateway.app import create_app
    from gateway.error_messages import explain
    from gateway.process.listener import PortTakenError, bind_socket
    from gateway.serving.server import serve as serve_app

    try:
        listener = bind_socket(host, port)
    except PortTakenError as error:
        _fail(str(error), error, debug=debug)
    if timeline:
        from gateway.timeline_table import show_timeline
    on_started = (lambda stack: show_timeline(stack.journal)) if timeline else None
    status, failure = serve_app(create_app(settings), listener, settings, on_started=on_started)
    if failure is not None:
        _say(explain(failure, settings), failure, debug=debug)
    raise typer.Exit(status)


@app.command()
def worker(
    *,
    alive: Annotated[Path | None, typer.Option(help="A file to touch every two seconds while all is well.")] = None,
    debug: Debug = False,
) -> None:
    """Work in what was reported and viewed, until SIGINT or SIGTERM stops it; a second signal forces the stop."""
    settings = _begin(debug=debug)
    from gateway.error_messages import explain
    from gateway.worker import work

    status, failure = work(settings, alive=alive)
    if failure is not None:
        _say(explain(failure, settings), failure, debug=debug)
    raise typer.Exit(status)


@app.command()
def check(*, debug: Debug = False) -> None:
    """Enter the whole lifespan, check each resource, leave again, and show the timeline."""
    settings = _begin(debug=debug, level=logging.CRITICAL)
    from gateway.app import create_app
    from gateway.error_messages import explain
    from gateway.serving.check import check as check_app
    from gateway.timeline_table import show_timeline

    checked = _run(check_app(create_app(settings)))
    show_timeline(checked.stack.journal, checked.checks)
    broken = [check for check in checked.checks if not check.ok]
    for check in broken:
        _say(f"{check.name}: {check.detail}", check.error, debug=debug)
    for error, status in ((checked.start_error, FAILED_START), (checked.stop_error, UNCLEAN_STOP)):
        if error is not None:
            _fail(explain(error, settings), error, debug=debug, status=status)
    raise typer.Exit(FAILED_CHECK if broken else 0)


@app.command()
def migrate(*, debug: Debug = False) -> None:
    """Bring the database to the revision that this version needs. Several may run at once."""
    settings = _begin(debug=debug)
    from gateway.schema.migrate import migrate as migrate_database

    _with_database(migrate_database, settings, debug=debug)


@app.command()
def seed(*, debug: Debug = False) -> None:
    """Load the places that the package ships, or bring them up to date."""
    settings = _begin(debug=debug)
    from gateway.places.seed import seed as seed_places

    _with_database(seed_places, settings, debug=debug)


@app.command()
def dev(host: Host = "127.0.0.1", port: Port = 8000, *, debug: Debug = False) -> None:
    """Serve from private servers of its own: PostgreSQL, Redis, RabbitMQ and a weather upstream. Ctrl-C ends it all."""
    from gateway.devstack.dev import dev as run_dev
    from gateway.devstack.server import DevstackError
    from gateway.process.listener import PortTakenError

    try:
        status = _run(run_dev(host, port, report=_report, debug=debug))
    except (DevstackError, PortTakenError) as error:
        _fail(str(error), error, debug=debug)
    raise typer.Exit(status)


def main() -> None:
    """What the `gateway` command calls."""
    try:
        app()
    except SystemExit as ended:
        end(ended.code if isinstance(ended.code, int) else 0)


def _report(line: str) -> None:
    """Print a line; there may be nobody to read it, as when the terminal has been closed."""
    with contextlib.suppress(OSError):
        typer.echo(line)


def _begin(*, debug: bool, level: int = logging.INFO) -> Settings:
    """Configure logging and libuv, and read the settings: a mistake in them ends the program before anything is entered."""
    from gateway.logs import configure_logging

    configure_logging(logging.DEBUG if debug else level)
    os.environ.setdefault("UV_THREADPOOL_SIZE", NAMES_AT_ONCE)
    try:
        return read_settings()
    except InvalidSettingsError as error:
        _fail(str(error), error, debug=debug)


def _with_database(work: Callable[..., Coroutine[Any, Any, object]], settings: Settings, *, debug: bool) -> None:
    from asyncpg import InterfaceError, PostgresError
    from sqlalchemy.exc import SQLAlchemyError

    from gateway.error_messages import explain_database_error
    from gateway.schema.revision import SchemaMismatchError

    url = settings.database.url.get_secret_value()
    try:
        done = _run(work(url, application_name=f"{settings.instance} {work.__name__}"))
    except (
        OSError,
        SQLAlchemyError,
        PostgresError,
        InterfaceError,
        SchemaMismatchError,
        TypeError,
        ValueError,
    ) as error:
        _fail(explain_database_error(error, settings), error, debug=debug)
    typer.echo(done)


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return run(work)
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(INTERRUPTED) from None


def _fail(message: str, error: BaseException, *, debug: bool, status: int = FAILED_START) -> NoReturn:
    _say(message, error, debug=debug)
    raise typer.Exit(status)


def _say(message: str, error: BaseException | None, *, debug: bool) -> None:
    if debug and error is not None:
        traceback.print_exception(error)
    typer.echo(f"gateway: {message}", err=True)
