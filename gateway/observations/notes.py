"""The notes of observations for an operator: remove those of a reporter."""

from datetime import datetime

from sqlalchemy import bindparam, func, null, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.resources.progress import note_progress
from gateway.schema.tables import observations

BATCH_SIZE = 10_000  # ids that one statement examines, so that it takes milliseconds without an index of the reporters

_ID_RANGE = select(func.min(observations.c.id), func.max(observations.c.id))
_REMOVE = (
    update(observations)
    .values(note=null())
    .where(
        observations.c.id >= bindparam("first_id"),
        observations.c.id < bindparam("end_id"),
        observations.c.reporter == bindparam("of_reporter"),
        observations.c.note.is_not(None),
    )
    .returning(observations.c.id)
)
_REMOVE_SINCE = _REMOVE.where(observations.c.created_at >= bindparam("since"))


async def remove_notes(database: AsyncEngine, reporter: str, since: datetime | None) -> list[int]:
    """Remove the notes of a reporter, each batch in a transaction of its own. The observations stay, and stay counted.

    Notes that are stored after the call has begun may stay.

    Args:
        database: where they are stored.
        reporter: the name of the API key.
        since: only the notes of observations that were stored at this time or later, with a time zone.

    Returns:
        The ids of the observations that had a note. A note of an error has the number of those that are done.
    """
    statement, parameters = (_REMOVE, {}) if since is None else (_REMOVE_SINCE, {"since": since})
    async with database.connect() as connection:
        lowest, highest = (await connection.execute(_ID_RANGE)).one()
    done: list[int] = []
    with note_progress(done, "removed"):
        for first_id in range(lowest or 0, (highest or 0) + 1, BATCH_SIZE):
            batch = {"first_id": first_id, "end_id": first_id + BATCH_SIZE, "of_reporter": reporter}
            async with database.begin() as connection:
                done += (await connection.scalars(statement, batch | parameters)).all()
    return done
