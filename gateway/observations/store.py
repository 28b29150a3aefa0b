"""The write path: one statement stores a group of observations with their events, once for each idempotency key."""

from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import asdict, fields

import orjson
from sqlalchemy import ARRAY, JSON, Integer, Text, any_, bindparam, cast, column, func, insert, literal, or_, select
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.events.messages import ObservationReported
from gateway.observations.queries import OBSERVATION_COLUMNS, Observation
from gateway.observations.reports import (
    KeyInFlightError,
    KeyReusedError,
    NewObservation,
    Outcome,
    Report,
    Stored,
    UnknownPlaceError,
)
from gateway.schema.tables import observations, outbox, places
from gateway.telemetry.trace_context import current_traceparent

_FOREIGN_KEY_VIOLATION = "23503"
_EVENT_TYPE = literal(ObservationReported.model_fields["type"].default)

_KEY = observations.c.idempotency_key
_FIELDS = [field.name for field in fields(NewObservation)]
_COLUMNS = [*(observations.c[name] for name in _FIELDS), _KEY]
_GIVEN_TYPES = {"position": Integer()} | {column.name: column.type for column in _COLUMNS}

# The reports are one JSON array, so that the text of the statement does not depend on their number, and is prepared once. With
# an array for each column, asyncpg would first look up the types of the arrays on each connection. That takes up to a second behind
# PgBouncer, where it cannot turn off the JIT compiler for the query.
_given = (
    func.json_to_recordset(cast(bindparam("reports", type_=Text), JSON))
    .table_valued(*(column(name, type_) for name, type_ in _GIVEN_TYPES.items()))
    .render_derived(name="given", with_types=True)
)
# A row of an unknown place would fail the whole statement.
_has_place = select(places.c.id).where(places.c.id == _given.c.place_id).exists()
# Nothing is inserted if the key was used before, or if another transaction uses it now and holds the lock of the key. Without
# the lock, the statement would wait for the end of that transaction.
_is_key_free = or_(
    _given.c.idempotency_key.is_(None),
    func.pg_try_advisory_xact_lock(func.hashtextextended(_given.c.idempotency_key, 0)),
)
_inserted = (
    pg_insert(observations)
    .from_select(
        _COLUMNS,
        select(*(_given.c[column.name] for column in _COLUMNS))
        .where(_has_place, _is_key_free)
        .order_by(_given.c.position),
    )
    .on_conflict_do_nothing(index_elements=[_KEY], index_where=_KEY.is_not(None))
    .returning(*OBSERVATION_COLUMNS, _KEY)
    .cte("inserted")
)
# The body is an `ObservationReported`. PostgreSQL makes it, because the id of the observation is not known before.
_event = select(
    func.gen_random_uuid().label("id"),
    _inserted.c.id.label("observation_id"),
    _inserted.c.place_id,
    func.coalesce(_inserted.c.idempotency_key, cast(_inserted.c.place_id, Text)).label("report"),
).cte("event")
_data = func.json_build_object("observation_id", _event.c.observation_id, "place_id", _event.c.place_id)
_body = func.json_build_object("id", _event.c.id, "type", _EVENT_TYPE, "at", func.now(), "data", _data)
# The rows that were inserted have no position, so the contexts are by the key of the report, or else by its place.
_traceparent = cast(bindparam("traceparents", type_=Text), JSON).op("->>")(_event.c.report)
_enqueued = (
    insert(outbox)
    .from_select(
        ["event_id", "type", "body", "traceparent"],
        select(_event.c.id, _EVENT_TYPE, cast(_body, Text), _traceparent),
    )
    .cte("enqueued")
)
_INSERT = select(_inserted).order_by(_inserted.c.id).add_cte(_enqueued)

_BY_KEYS = select(*OBSERVATION_COLUMNS, _KEY).where(any_(bindparam("keys", type_=ARRAY(Text))) == _KEY)
_EXISTING_PLACES = select(places.c.id).where(places.c.id.in_(bindparam("place_ids", expanding=True)))


async def insert_reports(connection: AsyncConnection, reports: Sequence[Report]) -> list[Observation | None]:
    """Store observations and their events in one statement, which is a transaction of its own if none is open.

    Returns:
        The stored observation of each report, or None if it was not stored now: `explain_unstored()` returns why.

    Raises:
        sqlalchemy.exc.SQLAlchemyError, OSError: nothing is stored, or the connection was lost and the outcome is unknown.
    """
    given = [
        {"position": position, "idempotency_key": report.stored_key, **asdict(report.new)}
        for position, report in enumerate(reports)
    ]
    try:
        rows = await connection.execute(
            _INSERT, {"reports": orjson.dumps(given).decode(), "traceparents": _traceparents(reports)}
        )
    except IntegrityError as error:
        # The place was deleted while the statement ran. Of several reports, it is not known which ones are affected.
        if len(reports) == 1 and getattr(error.orig, "sqlstate", None) == _FOREIGN_KEY_VIOLATION:
            return [None]
        raise
    # A row belongs to the first report with its key. Without keys, the rows of a place have the order of its reports: all of
    # them are stored, or none.
    positions: defaultdict[str | int, deque[int]] = defaultdict(deque)
    for position, report in enumerate(reports):
        positions[report.stored_key or report.new.place_id].append(position)
    found: list[Observation | None] = [None] * len(reports)
    for *values, key in rows:
        observation = Observation(*values)
        found[positions[key or observation.place_id].popleft()] = observation
    return found


def _traceparents(reports: Sequence[Report]) -> str | None:
    """Return the trace contexts as JSON, by the key of each report, or else by its place. None if there are none.

    Several reports of one place without keys cannot be distinguished. They have the context of the group, whose span has links
    to all of them.
    """
    if not any(report.traceparent for report in reports):
        return None
    without_key = Counter(report.new.place_id for report in reports if report.stored_key is None)
    contexts: dict[str, str | None] = {}
    for report in reports:
        is_shared = report.stored_key is None and without_key[report.new.place_id] > 1
        context = current_traceparent() if is_shared else report.traceparent
        contexts.setdefault(report.stored_key or str(report.new.place_id), context)
    return orjson.dumps(contexts).decode()


async def explain_unstored(connection: AsyncConnection, reports: Sequence[Report]) -> list[Outcome]:
    """Return why each of the reports was not stored: an earlier one has its key, or the error."""
    keys = [report.stored_key for report in reports if report.stored_key is not None]
    by_key = {key: Observation(*row) for *row, key in await connection.execute(_BY_KEYS, {"keys": keys})}
    place_ids = list({report.new.place_id for report in reports})
    existing = set(await connection.scalars(_EXISTING_PLACES, {"place_ids": place_ids}))

    def explain(report: Report) -> Outcome:
        stored = by_key.get(report.stored_key or "")
        if stored is not None:
            return Stored(stored, is_new=False) if report.is_equal_to(stored) else KeyReusedError()
        if report.stored_key is not None and report.new.place_id in existing:
            return KeyInFlightError()
        return UnknownPlaceError()  # also of a place that was created after the attempt to store the report

    return [explain(report) for report in reports]
