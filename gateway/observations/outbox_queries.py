"""The queries of the relay: which entries of the outbox it publishes next, and the state of those that failed."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Double,
    ScalarSelect,
    bindparam,
    case,
    cast,
    delete,
    func,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.schema.tables import outbox

MAX_ATTEMPTS = 10  # of an entry that is rejected, over eight minutes; after that it is parked
MAX_POSTPONED = 10_000  # entries that are examined when no queue takes their type

_IS_WAITING = outbox.c.parked_at.is_(None)
_IS_DUE = _IS_WAITING & (outbox.c.next_attempt_at <= func.now())
_ORDER = (outbox.c.attempts, outbox.c.next_attempt_at, outbox.c.id)
_IDS: BindParameter[Sequence[int]] = bindparam("ids", expanding=True)
_DELAY = bindparam("delay", type_=Double)  # seconds

_NEXT_BATCH = (
    select(outbox.c.id, outbox.c.event_id, outbox.c.type, outbox.c.body, outbox.c.attempts)
    .where(_IS_DUE)
    .order_by(*_ORDER)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)
_NEXT_NEW = _NEXT_BATCH.where(outbox.c.attempts == 0)
_NEXT_FAILED = _NEXT_BATCH.where(outbox.c.attempts >= bindparam("min_attempts"))
# PostgreSQL locks the newest version of an entry, and evaluates the condition for it, but not that of the inner query.
_DUE_OF_TYPE = (
    select(outbox.c.id)
    .where(
        outbox.c.id.in_(select(outbox.c.id).where(_IS_DUE).order_by(*_ORDER).limit(MAX_POSTPONED)),
        outbox.c.type == bindparam("of_type"),
        _IS_DUE,
    )
    .with_for_update(skip_locked=True)
)
_DELETE = delete(outbox).where(outbox.c.id.in_(_IDS))


def _seconds_from_now(seconds: ColumnElement[float]) -> ColumnElement[Any]:
    return func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, seconds)


_COUNT_ATTEMPT = update(outbox).values(
    attempts=outbox.c.attempts + 1,
    next_attempt_at=_seconds_from_now(_DELAY * func.power(2, outbox.c.attempts)),
    parked_at=case((outbox.c.attempts + 1 >= MAX_ATTEMPTS, func.clock_timestamp())),
    last_error=bindparam("error"),
)
_COUNT_ATTEMPT_BY_ID = _COUNT_ATTEMPT.where(outbox.c.id.in_(_IDS))
_COUNT_ATTEMPT_BY_TYPE = _COUNT_ATTEMPT.where(outbox.c.id.in_(_DUE_OF_TYPE))
_POSTPONE = (
    update(outbox)
    .values(
        attempts=func.greatest(outbox.c.attempts, 1),
        next_attempt_at=_seconds_from_now(_DELAY),
        last_error=bindparam("error"),
    )
    .where(outbox.c.id.in_(_IDS))
)


def _count(condition: ColumnElement[bool]) -> ScalarSelect[int]:
    return (
        select(func.count())
        .select_from(select(outbox.c.id).where(condition).limit(bindparam("limit")).subquery())
        .scalar_subquery()
    )


_WAITING = select(outbox.c.created_at).where(_IS_WAITING).limit(bindparam("limit")).subquery()
_OLDEST_AGE = func.extract("epoch", func.clock_timestamp() - func.min(_WAITING.c.created_at))

_COUNTS = select(
    _count(_IS_WAITING),
    _count(_IS_WAITING & (outbox.c.attempts > 0)),
    _count(outbox.c.parked_at.is_not(None)),
    select(cast(_OLDEST_AGE, Double)).scalar_subquery(),
)


class OutboxCounts(NamedTuple):
    """The number of entries: those that wait, those of them that have failed, and those that are parked.

    `oldest_age` is in seconds, of the oldest one that waits, or None without any.
    """

    waiting: int
    failing: int
    parked: int
    oldest_age: float | None


async def lock_new_entries(connection: AsyncConnection, limit: int) -> Sequence[Any]:
    """Return the new entries to publish next, the oldest first, locked until the end of the transaction.

    Each relay gets different entries, because it skips those that another one has locked. PostgreSQL unlocks the entries of
    a process that was killed.
    """
    return (await connection.execute(_NEXT_NEW, {"limit": limit})).all()


async def lock_failed_entries(connection: AsyncConnection, limit: int, *, min_attempts: int) -> Sequence[Any]:
    """Return the due entries to try again next, those with the fewest attempts first, locked as the new ones are."""
    return (await connection.execute(_NEXT_FAILED, {"limit": limit, "min_attempts": min_attempts})).all()


async def delete_entries(connection: AsyncConnection, ids: Sequence[int]) -> None:
    await connection.execute(_DELETE, {"ids": ids})


async def count_attempt(connection: AsyncConnection, ids: Sequence[int], *, error: str, delay: float) -> None:
    """Count an attempt of entries that were rejected. The delay doubles with each attempt; after the last one they are parked."""
    await connection.execute(_COUNT_ATTEMPT_BY_ID, {"ids": ids, "error": error, "delay": delay})


async def count_attempt_of_type(connection: AsyncConnection, event_type: str, *, error: str, delay: float) -> None:
    """Count an attempt of all due entries of a type, of which one was rejected because no queue takes the type."""
    await connection.execute(_COUNT_ATTEMPT_BY_TYPE, {"of_type": event_type, "error": error, "delay": delay})


async def postpone(connection: AsyncConnection, ids: Sequence[int], *, error: str, delay: float) -> None:
    """Postpone entries that were neither confirmed nor rejected. They are never parked."""
    await connection.execute(_POSTPONE, {"ids": ids, "error": error, "delay": delay})


async def count_entries(connection: AsyncConnection, limit: int) -> OutboxCounts:
    """Return the numbers of entries, each at most `limit`, and the age of the oldest of those that were counted."""
    return OutboxCounts(*(await connection.execute(_COUNTS, {"limit": limit})).one())
