"""The `gateway` command."""

# Each command imports its modules when it runs: `serve` needs no Alembic, and `migrate` needs no FastAPI.
# ruff: noqa: PLC0415

import asyncio
import contextlib
import gc
import logging
import re
import socket
import sys
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import structlog
import typer

from gateway.command import Debug, exit_with_error, load_settings, print_error, run, start_telemetry
from gateway.operator_commands import dead_letters, observations, outbox
from gateway.process.exit_status import ExitStatus
from gateway.process.signals import stop_signals
from gateway.process.standard_streams import open_standard_streams
from gateway.process.watchdog import exit_process
from gateway.schema import DEFAULT_LOCK_WAIT
from gateway.settings import Settings
from gateway.settings.plaintext import plaintext_warnings

if TYPE_CHECKING:
    from fastapi import FastAPI

T = TypeVar("T")

# The number of new objects that starts a garbage collection. With Python's default of 700, the requests in flight would
# start hundreds of collections per second.
GC_THRESHOLD = 10_000

# The worker has no HTTP server of its own. The address is that of OpenTelemetry's specification.
WORKER_PROMETHEUS = ("localhost", 9464)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A FastAPI service that combines the responses of several backends into one.",
)
for operator_commands in (observations, outbox, dead_letters):
    app.add_typer(operator_commands)

Host = Annotated[str, typer.Option(help="The address to listen on.")]
LockWait = Annotated[float, typer.Option(help="Seconds to wait for locks of other sessions.", min=0)]
Port = Annotated[int, typer.Option(help="The port to listen on; 0 takes a free one.", min=0, max=65535)]


def _check_root_path(root_path: str) -> str:
    """Reject a prefix that is not the beginning of a path."""
    if re.fullmatch(r"(/[A-Za-z0-9._~-]+)*", root_path) is None:
        raise typer.BadParameter("should begin with a slash, end without one, and need no escapes, such as /weather")
    return root_path


@app.command()
def serve(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    *,
    root_path: Annotated[
        str, typer.Option(help="The prefix of all paths that a proxy removes.", callback=_check_root_path)
    ] = "",
    timeline: Annotated[bool, typer.Option("--timeline", help="Show the timeline of the startup.")] = False,
    debug: Debug = False,
) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP. A second SIGINT or SIGTERM forces the shutdown."""
    settings = _load_server_settings(debug=debug)
    with _gc_paused():
        from gateway.app import create_app
        from gateway.process.listener import BindError, bind_socket

    try:
        listener = bind_socket(host, port)
    except BindError as error:
        exit_with_error(str(error), error, debug=debug)
    _serve_app(create_app, listener, settings, root_path=root_path, timeline=timeline, debug=debug)


@app.command(hidden=True)
def serve_dev(listener: int, control: Path, *, debug: Debug = False) -> None:
    """Serve for `gateway dev`, which passes a bound socket, and the path of the socket that controls its servers."""
    settings = _load_server_settings(debug=debug)
    with _gc_paused():
        from gateway.devstack.control_socket import ControlClient
        from gateway.devstack.dev_app import create_dev_app

    create_app = partial(create_dev_app, control=ControlClient(control))
    _serve_app(create_app, socket.socket(fileno=listener), settings, timeline=True, debug=debug)


@app.command()
def worker(
    *,
    alive: Annotated[Path | None, typer.Option(help="A file to touch every two seconds while the worker runs.")] = None,
    debug: Debug = False,
) -> None:
    """Process the published events until SIGINT, SIGTERM or SIGHUP. A second SIGINT or SIGTERM forces the shutdown."""
    settings = load_settings(debug=debug)
    _warn_about_plaintext(settings)
    with _gc_paused():
        from gateway.error_messages import explain
        from gateway.worker import run_worker

    telemetry = start_telemetry("gateway-worker", settings, debug=debug, default_prometheus=WORKER_PROMETHEUS)
    with telemetry:
        status, failure = run_worker(settings, heartbeat_path=alive)
    if failure is not None:
        print_error(explain(failure, settings), failure, debug=debug)
    raise typer.Exit(status)


@app.command()
def check(*, debug: Debug = False) -> None:
    """Start all resources, check each of them, stop them, and show the timeline."""
    settings = load_settings(debug=debug, level=logging.CRITICAL)
    for line in plaintext_warnings(settings):
        print_error(f"warning: {line}", None, debug=debug)
    from gateway.app import create_app
    from gateway.error_messages import explain
    from gateway.serving.check import check as check_app
    from gateway.timeline_table import show_timeline

    report = run(check_app(create_app(settings)))
    show_timeline(report.stack.journal, report.checks)
    failed = [check for check in report.checks if not check.ok]
    for check in failed:
        print_error(f"{check.name}: {check.detail}", check.error, debug=debug)
    for error, status in ((report.start_error, ExitStatus.START_FAILED), (report.stop_error, ExitStatus.UNCLEAN)):
        if error is not None:
            exit_with_error(explain(error, settings), error, debug=debug, status=status)
    raise typer.Exit(ExitStatus.CHECK_FAILED if failed else ExitStatus.OK)


@app.command()
def migrate(
    *,
    grant_to: Annotated[
        str | None,
        typer.Option(metavar="ROLE", help="Grant the role only the rights that the gateway and the worker need."),
    ] = None,
    lock_wait: LockWait = DEFAULT_LOCK_WAIT,
    debug: Debug = False,
) -> None:
    """Migrate the database to the revision that this version needs, while others use it. Runs wait for each other."""
    settings = load_settings(debug=debug)
    from gateway.schema.migrate import migrate as migrate_database

    _with_database(migrate_database, settings, lock_wait=lock_wait, debug=debug, grant_to=grant_to)


@app.command()
def seed(*, lock_wait: LockWait = DEFAULT_LOCK_WAIT, debug: Debug = False) -> None:
    """Insert or update the places that the package ships."""
    settings = load_settings(debug=debug)
    from gateway.places.seed import seed as seed_places

    _with_database(seed_places, settings, lock_wait=lock_wait, debug=debug)


@app.command()
def dev(host: Host = "127.0.0.1", port: Port = 8000, *, debug: Debug = False) -> None:
    """Start private PostgreSQL, Redis, RabbitMQ and weather servers, and serve from them. Ctrl-C stops everything."""
    from gateway.devstack.dev import dev as run_dev
    from gateway.devstack.output import Output
    from gateway.devstack.server import DevstackError
    from gateway.process.listener import BindError

    try:
        with Output(sys.stdout.fileno()) as output:
            status = run(run_dev(host, port, output=output, debug=debug))
    except (DevstackError, BindError) as error:
        exit_with_error(str(error), error, debug=debug)
    raise typer.Exit(status)


def main() -> None:
    """Run the `gateway` command, and end the process even if a thread hangs."""
    open_standard_streams()
    try:
        app()
    except SystemExit as error:
        exit_process(error.code if isinstance(error.code, int) else 0)


@contextlib.contextmanager
def _gc_paused() -> Generator[None]:
    """Import modules inside the block without garbage collections.

    Collections would take nearly a tenth of the CPU time until the first response, and free nearly nothing. At the end the imported
    objects are frozen; otherwise the first collection would visit all of them.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _load_server_settings(*, debug: bool) -> Settings:
    settings = load_settings(debug=debug)
    _warn_about_plaintext(settings)
    gc.set_threshold(GC_THRESHOLD)
    return settings


def _serve_app(
    create_app: "Callable[[Settings], FastAPI]",
    listener: socket.socket,
    settings: Settings,
    *,
    root_path: str = "",
    timeline: bool,
    debug: bool,
) -> NoReturn:
    """Serve an app, and exit with the status of the process."""
    with _gc_paused():
        from gateway.error_messages import explain
        from gateway.serving.server import serve as serve_app

    if timeline:
        from gateway.timeline_table import show_timeline
    on_started = (lambda stack: show_timeline(stack.journal)) if timeline else None
    with start_telemetry("gateway", settings, debug=debug) as telemetry:
        serving_app = create_app(settings)
        serving_app.state.scrape = telemetry.scrape
        status, failure = serve_app(serving_app, listener, settings, root_path=root_path, on_started=on_started)
    if failure is not None:
        print_error(explain(failure, settings), failure, debug=debug)
    raise typer.Exit(status)


def _warn_about_plaintext(settings: Settings) -> None:
    for line in plaintext_warnings(settings):
        structlog.get_logger("gateway.settings").warning("connection without TLS", advice=line)


def _with_database(
    command: Callable[..., Coroutine[Any, Any, object]],
    settings: Settings,
    *,
    lock_wait: float,
    debug: bool,
    **options: object,
) -> None:
    """Run the command on the database and print its result, or exit with a message that names the setting.

    `options` are further arguments of the command.
    """
    from asyncpg import InterfaceError, PostgresError
    from sqlalchemy.exc import SQLAlchemyError

    from gateway.error_messages import explain_database_error
    from gateway.schema.connect import ConnectError
    from gateway.schema.lock_waits import LockWaitError
    from gateway.schema.revision import SchemaMismatchError
    from gateway.schema.rights import RoleError

    url = settings.database.complete_url.get_secret_value()
    try:
        result = run(
            _cancelled_by_signals(
                command(
                    url,
                    application_name=f"{settings.instance} {command.__name__}",
                    lock_wait=lock_wait,
                    report=lambda line: print_error(line, None, debug=debug),
                    **options,
                )
            )
        )
    except (
        OSError,
        SQLAlchemyError,
        PostgresError,
        InterfaceError,
        ConnectError,
        SchemaMismatchError,
        LockWaitError,
        RoleError,
    ) as error:
        exit_with_error(explain_database_error(error, settings), error, debug=debug)
    typer.echo(result)


async def _cancelled_by_signals(coro: Coroutine[Any, Any, T]) -> T:
    """Await `coro`. Each stop signal cancels it, so that the server cancels its statement."""
    task = asyncio.create_task(coro)
    for number in stop_signals():
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task
