"""The commands that repair data: `gateway observations`, `gateway outbox` and `gateway dead-letters`."""

# Each command imports its modules when it runs, so that the other commands need not load them.
# ruff: noqa: PLC0415

import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, TypeVar

import typer

from gateway.command import Debug, exit_with_error, load_settings, print_error, run
from gateway.process.exit_status import ExitStatus
from gateway.settings.api_keys import is_key_name

T = TypeVar("T")

MAX_OUTBOX_ID = 2**63 - 1  # of a bigint

observations = typer.Typer(name="observations", no_args_is_help=True, help="Remove notes of observations.")
outbox = typer.Typer(
    name="outbox", no_args_is_help=True, help="List, replay or drop events that the broker did not accept."
)
dead_letters = typer.Typer(
    name="dead-letters", no_args_is_help=True, help="List, replay or drop messages that the worker did not accept."
)


def _check_reporter(name: str) -> str:
    """Reject what is no name of a key. The empty one is that of all observations without a key."""
    if not is_key_name(name):
        raise typer.BadParameter("should be the name of an API key")
    return name


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[int, typer.Option(help="The maximum number of items.", min=1)]
OutboxIds = Annotated[list[int] | None, typer.Argument(help="The ids of parked events.", min=1, max=MAX_OUTBOX_ID)]
WithBody = Annotated[bool, typer.Option("--body", help="Print the events, too.")]


@observations.command("remove-notes")
def remove_notes(
    *,
    reporter: Annotated[str, typer.Option(help="The name of the API key.", callback=_check_reporter)],
    since: Annotated[
        datetime | None,
        typer.Option(
            help="Only notes that were stored at this time or later. A time without an offset is in UTC.",
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"],
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Remove the notes that were reported with an API key. The observations stay."""
    from gateway.observations.notes import remove_notes as remove

    if since is not None and since.tzinfo is None:
        since = since.replace(tzinfo=UTC)
    removed = _with_resource("database", partial(remove, reporter=reporter, since=since), debug=debug)
    typer.echo(f"{len(removed)} removed")


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
        print_error(f"no queue takes {', '.join(map(str, result.unroutable))}: kept", None, debug=debug)
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


def _with_resource(name: str, action: Callable[[Any], Awaitable[T]], *, debug: bool) -> T:
    """Enter the database or RabbitMQ, pass it to `action`, and return the result. Exit with a message if that fails."""
    settings = load_settings(debug=debug, level=logging.CRITICAL)
    from asyncpg import InterfaceError, PostgresError
    from sqlalchemy.exc import SQLAlchemyError

    from gateway.error_messages import explain_resource_error
    from gateway.events.channels import CONNECTION_ERRORS, BlockedError, RefusedError
    from gateway.lifecycle import LifecycleStack, StartError, TeardownError
    from gateway.resources.base import PermanentError, enter_resource
    from gateway.resources.database import DatabaseEngine
    from gateway.resources.rabbitmq import RabbitMQConnection

    async def use() -> T:
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
        return run(use())
    except (BlockedError, RefusedError) as error:
        exit_with_error(f"{name}: {error}{_notes(error)}", error, debug=debug)
    except (
        StartError,
        TeardownError,
        PermanentError,
        SQLAlchemyError,
        PostgresError,
        InterfaceError,
        *CONNECTION_ERRORS,
    ) as error:
        exit_with_error(f"{explain_resource_error(name, error, settings)}{_notes(error)}", error, debug=debug)


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
        print_error(f"not found: {', '.join(missing)}", None, debug=False)
        raise typer.Exit(ExitStatus.START_FAILED)
