"""The `gateway` command."""

# Each command imports its modules when it runs: `serve` needs no Alembic, and `migrate` needs no FastAPI.
# ruff: noqa: PLC0415

import asyncio
import contextlib
import gc
import logging
import os
import re
import traceback
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import structlog
import typer

from gateway.process.exit_status import ExitStatus
from gateway.process.signals import stop_signals
from gateway.process.standard_streams import open_standard_streams
from gateway.process.watchdog import exit_process, run_without_waiting_for_threads
from gateway.schema import DEFAULT_LOCK_WAIT
from gateway.settings import InvalidSettingsError, Settings, read_settings, unknown_settings
from gateway.settings.plaintext import plaintext_warnings

T = TypeVar("T")

# The number of new objects that starts a garbage collection. With Python's default of 700, the requests in flight would
# start hundreds of collections per second.
GC_THRESHOLD = 10_000

# libuv uses one thread for each DNS lookup. With its default of four threads, lookups of one host name whose DNS server
# does not respond could block those of all other backends.
UV_THREADPOOL_SIZE = "32"

MAX_OUTBOX_ID = 2**63 - 1  # of a bigint

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A FastAPI service that combines the responses of several backends into one.",
)

outbox = typer.Typer(no_args_is_help=True, help="List, replay or drop events that the broker did not accept.")
app.add_typer(outbox, name="outbox")
dead_letters = typer.Typer(no_args_is_help=True, help="List, replay or drop messages that the worker did not accept.")
app.add_typer(dead_letters, name="dead-letters")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error, and log more.")]
Host = Annotated[str, typer.Option(help="The address to listen on.")]
Limit = Annotated[int, typer.Option(help="The maximum number of items.", min=1)]
OutboxIds = Annotated[list[int] | None, typer.Argument(help="The ids of parked events.", min=1, max=MAX_OUTBOX_ID)]
LockWait = Annotated[float, typer.Option(help="Seconds to wait for locks of other sessions.", min=0)]
Port = Annotated[int, typer.Option(help="The port to listen on; 0 takes a free one.", min=0, max=65535)]
WithBody = Annotated[bool, typer.Option("--body", help="Print the events, too.")]


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
    settings = _load_settings(debug=debug)
    _warn_about_plaintext(settings)
    gc.set_threshold(GC_THRESHOLD)
    from gateway.app import create_app
    from gateway.error_messages import explain
    from gateway.process.listener import BindError, bind_socket
    from gateway.serving.server import serve as serve_app

    try:
        listener = bind_socket(host, port)
    except BindError as error:
        _exit_with_error(str(error), error, debug=debug)
    if timeline:
        from gateway.timeline_table import show_timeline
    on_started = (lambda stack: show_timeline(stack.journal)) if timeline else None
    status, failure = serve_app(create_app(settings), listener, settings, root_path=root_path, on_started=on_started)
    if failure is not None:
        _print_error(explain(failure, settings), failure, debug=debug)
    raise typer.Exit(status)


@app.command()
def worker(
    *,
    alive: Annotated[Path | None, typer.Option(help="A file to touch every two seconds while the worker runs.")] = None,
    debug: Debug = False,
) -> None:
    """Process the published events until SIGINT, SIGTERM or SIGHUP. A second SIGINT or SIGTERM forces the shutdown."""
    settings = _load_settings(debug=debug)
    _warn_about_plaintext(settings)
    from gateway.error_messages import explain
    from gateway.worker import run_worker

    status, failure = run_worker(settings, heartbeat_path=alive)
    if failure is not None:
        _print_error(explain(failure, settings), failure, debug=debug)
    raise typer.Exit(status)


@app.command()
def check(*, debug: Debug = False) -> None:
    """Start all resources, check each of them, stop them, and show the timeline."""
    settings = _load_settings(debug=debug, level=logging.CRITICAL)
    for line in plaintext_warnings(settings):
        _print_error(f"warning: {line}", None, debug=debug)
    from gateway.app import create_app
    from gateway.error_messages import explain
    from gateway.serving.check import check as check_app
    from gateway.timeline_table import show_timeline

    report = _run(check_app(create_app(settings)))
    show_timeline(report.stack.journal, report.checks)
    failed = [check for check in report.checks if not check.ok]
    for check in failed:
        _print_error(f"{check.name}: {check.detail}", check.error, debug=debug)
    for error, status in ((report.start_error, ExitStatus.START_FAILED), (report.stop_error, ExitStatus.UNCLEAN)):
        if error is not None:
            _exit_with_error(explain(error, settings), error, debug=debug, status=status)
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
    settings = _load_settings(debug=debug)
    from gateway.schema.migrate import migrate as migrate_database

    _with_database(migrate_database, settings, lock_wait=lock_wait, debug=debug, grant_to=grant_to)


@app.command()
def seed(*, lock_wait: LockWait = DEFAULT_LOCK_WAIT, debug: Debug = False) -> None:
    """Insert or update the places that the package ships."""
    settings = _load_settings(debug=debug)
    from gateway.places.seed import seed as seed_places

    _with_database(seed_places, settings, lock_wait=lock_wait, debug=debug)


@outbox.command("list")
def list_outbox(
    *,
    with_waiting: Annotated[bool, typer.Option("--all", help="Also the events that are tried again.")] = False,
    limit: Limit = 100,
    body: WithBody = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List the events that are parked, the oldest first."""
    from gateway.observations.outbox import list_entries

    list_database = partial(list_entries, with_waiting=with_waiting, with_body=body, limit=limit)
    _print_items(_with_resource("database", list_database, debug=debug), as_json=as_json)


@outbox.command("replay")
def replay_outbox(
    ids: OutboxIds = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All parked events.")] = False,
    debug: Debug = False,
) -> None:
    """Publish parked events again."""
    from gateway.observations.outbox import replay_entries

    selected = _selection(ids, every=every)
    replayed = _with_resource("database", partial(replay_entries, ids=selected), debug=debug)
    _report_done("replayed", replayed, selected)


@outbox.command("drop")
def drop_outbox(
    ids: OutboxIds = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All parked events.")] = False,
    debug: Debug = False,
) -> None:
    """Delete parked events. They are never published."""
    from gateway.observations.outbox import drop_entries

    selected = _selection(ids, every=every)
    dropped = _with_resource("database", partial(drop_entries, ids=selected), debug=debug)
    _report_done("dropped", dropped, selected)


@dead_letters.command("list")
def list_dead_letters(
    *, limit: Limit = 100, body: WithBody = False, as_json: AsJson = False, debug: Debug = False
) -> None:
    """List the dead letters, the oldest first."""
    from gateway.events.dead_letters import list_dead_letters as list_letters

    listed = _with_resource("rabbitmq", partial(list_letters, with_body=body, limit=limit), debug=debug)
    _print_items(listed, as_json=as_json)


@dead_letters.command("replay")
def replay_dead_letters(
    ids: Annotated[list[str] | None, typer.Argument(help="The ids of dead letters.")] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All dead letters.")] = False,
    debug: Debug = False,
) -> None:
    """Publish dead letters again, and remove them when the broker has confirmed it."""
    from gateway.events.dead_letters import replay_dead_letters as replay_letters

    selected = _selection(ids, every=every)
    result = _with_resource("rabbitmq", partial(replay_letters, ids=selected), debug=debug)
    if result.unroutable:
        _print_error(f"no queue takes {', '.join(map(str, result.unroutable))}: kept", None, debug=debug)
    _report_done("replayed", result.done, selected, kept=result.unroutable)
    if result.unroutable:
        raise typer.Exit(ExitStatus.START_FAILED)


@dead_letters.command("drop")
def drop_dead_letters(
    ids: Annotated[list[str] | None, typer.Argument(help="The ids of dead letters.")] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All dead letters.")] = False,
    debug: Debug = False,
) -> None:
    """Remove dead letters. They are never processed."""
    from gateway.events.dead_letters import drop_dead_letters as drop_letters

    selected = _selection(ids, every=every)
    result = _with_resource("rabbitmq", partial(drop_letters, ids=selected), debug=debug)
    _report_done("dropped", result.done, selected)


@app.command()
def dev(host: Host = "127.0.0.1", port: Port = 8000, *, debug: Debug = False) -> None:
    """Start private PostgreSQL, Redis, RabbitMQ and weather servers, and serve from them. Ctrl-C stops everything."""
    from gateway.devstack.dev import dev as run_dev
    from gateway.devstack.server import DevstackError
    from gateway.process.listener import BindError

    try:
        status = _run(run_dev(host, port, report=_report, debug=debug))
    except (DevstackError, BindError) as error:
        _exit_with_error(str(error), error, debug=debug)
    raise typer.Exit(status)


def main() -> None:
    """Run the `gateway` command, and end the process even if a thread hangs."""
    open_standard_streams()
    try:
        app()
    except SystemExit as error:
        exit_process(error.code if isinstance(error.code, int) else 0)


def _report(line: str) -> None:
    """Print a line, unless the terminal has been closed."""
    with contextlib.suppress(OSError):
        typer.echo(line)


def _load_settings(*, debug: bool, level: int = logging.INFO) -> Settings:
    """Configure logging and libuv, and return the settings. If they are invalid, exit before anything is opened.

    Variables that look like a setting and are none are reported first, because one of them may be the reason.
    """
    from gateway.logs import configure_logging

    configure_logging(logging.DEBUG if debug else level)
    os.environ.setdefault("UV_THREADPOOL_SIZE", UV_THREADPOOL_SIZE)
    for line in unknown_settings():
        _print_error(f"warning: {line}", None, debug=debug)
    try:
        return read_settings()
    except InvalidSettingsError as error:
        _exit_with_error(str(error).replace("\n", "\ngateway: "), error, debug=debug)


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
        result = _run(
            _cancelled_by_signals(
                command(
                    url,
                    application_name=f"{settings.instance} {command.__name__}",
                    lock_wait=lock_wait,
                    report=lambda line: _print_error(line, None, debug=debug),
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
        _exit_with_error(explain_database_error(error, settings), error, debug=debug)
    typer.echo(result)


def _with_resource(name: str, action: Callable[[Any], Awaitable[T]], *, debug: bool) -> T:
    """Enter the database or RabbitMQ, pass it to `action`, and return the result. Exit with a message if that fails."""
    settings = _load_settings(debug=debug, level=logging.CRITICAL)
    from asyncpg import InterfaceError, PostgresError
    from sqlalchemy.exc import SQLAlchemyError

    from gateway.error_messages import explain_resource_error
    from gateway.events.channels import CONNECTION_ERRORS, BlockedError, RefusedError
    from gateway.lifecycle import LifecycleStack, StartError, TeardownError
    from gateway.resources.base import PermanentError, enter_resource
    from gateway.resources.database import DatabaseEngine
    from gateway.resources.rabbitmq import RabbitMQConnection

    async def run() -> T:
        async with LifecycleStack(shutdown_timeout=settings.shutdown_timeout) as stack:
            if name == "database":
                opened: Any = await enter_resource(stack, DatabaseEngine(settings.database, settings.instance))
            else:
                opened = (
                    await enter_resource(stack, RabbitMQConnection(settings.rabbitmq, settings.instance))
                ).connection
            stack.mark_started()
            result = await action(opened)
        return result  # noqa: RET504 - for mypy, the stack may suppress an error

    try:
        return _run(run())
    except (BlockedError, RefusedError) as error:
        _exit_with_error(f"{name}: {error}{_notes(error)}", error, debug=debug)
    except (
        StartError,
        TeardownError,
        PermanentError,
        SQLAlchemyError,
        PostgresError,
        InterfaceError,
        *CONNECTION_ERRORS,
    ) as error:
        _exit_with_error(f"{explain_resource_error(name, error, settings)}{_notes(error)}", error, debug=debug)


def _notes(error: Exception) -> str:
    """Return the notes of the error, which have the number of the items that were changed before it."""
    return "".join(f" ({note})" for note in getattr(error, "__notes__", ()))


def _selection(ids: list[T] | None, *, every: bool) -> list[T] | None:
    """Return the ids, or None for all."""
    if bool(ids) == every:
        raise typer.BadParameter("give either ids or --all")
    return ids or None


def _print_items(items: Sequence[Any], *, as_json: bool) -> None:
    from gateway.item_table import format_items, format_json

    if as_json:
        typer.echo(format_json(items))
    else:
        typer.echo(format_items(items) if items else "none")


def _report_done(verb: str, done: Collection[T], selected: Sequence[T] | None, *, kept: Collection[T] = ()) -> None:
    """Print the number of items. Exit with an error if some were not found."""
    typer.echo(f"{len(done)} {verb}")
    missing = [str(each) for each in selected or () if each not in done and each not in kept]
    if missing:
        _print_error(f"not found: {', '.join(missing)}", None, debug=False)
        raise typer.Exit(ExitStatus.START_FAILED)


async def _cancelled_by_signals(coro: Coroutine[Any, Any, T]) -> T:
    """Await `coro`. Each stop signal cancels it, so that the server cancels its statement."""
    task = asyncio.create_task(coro)
    for number in stop_signals():
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


def _run(coro: Coroutine[Any, Any, T]) -> T:
    try:
        return run_without_waiting_for_threads(coro)
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(ExitStatus.INTERRUPTED) from None


def _exit_with_error(
    message: str, error: BaseException, *, debug: bool, status: int = ExitStatus.START_FAILED
) -> NoReturn:
    _print_error(message, error, debug=debug)
    raise typer.Exit(status)


def _print_error(message: str, error: BaseException | None, *, debug: bool) -> None:
    with contextlib.suppress(OSError):  # the terminal has been closed
        if debug and error is not None:
            traceback.print_exception(error)
        typer.echo(f"gateway: {message}", err=True)
