"""The notes of a reporter, which an operator removes as the owner of the tables."""

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.observations import notes
from gateway.observations.notes import remove_notes
from gateway.observations.queries import Observation, latest_observations
from gateway.observations.reports import KeyReusedError
from gateway.schema.tables import observations
from tests.observations.test_writer import PLACE_ID, RAIN, store

SPAM = replace(RAIN, note="spam", reporter="mallory")


async def stored_notes(database: AsyncEngine) -> list[str | None]:
    """Return the notes of all observations, the oldest first."""
    async with database.connect() as connection:
        return list(await connection.scalars(select(observations.c.note).order_by(observations.c.id)))


async def test_notes_of_a_reporter_are_removed(
    database: AsyncEngine, owner: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the notes of the reporter are removed, in any number of batches. The rest of the observations stays."""
    monkeypatch.setattr(notes, "BATCH_SIZE", 2)
    before = [(await store(database, new))[0] for new in (SPAM, SPAM, RAIN, replace(SPAM, note=None), SPAM)]
    spam = [before[0].id, before[1].id, before[4].id]

    assert await remove_notes(owner, "mallory", None) == spam
    async with database.connect() as connection:
        after = await latest_observations(connection, PLACE_ID)
    assert after[::-1] == [replace(each, note=None) if each.id in spam else each for each in before]
    assert await remove_notes(owner, "mallory", None) == []


async def test_notes_since_a_time(database: AsyncEngine, owner: AsyncEngine) -> None:
    """Older notes than a given time stay."""
    (old, _), (new, _) = [await store(database, SPAM) for _ in range(2)]
    async with owner.begin() as connection:
        an_hour_earlier = observations.c.created_at - timedelta(hours=1)
        await connection.execute(
            observations.update().where(observations.c.id == old.id).values(created_at=an_hour_earlier)
        )

    assert await remove_notes(owner, "mallory", new.created_at) == [new.id]
    assert await stored_notes(database) == ["spam", None]
    assert await remove_notes(owner, "mallory", old.created_at - timedelta(hours=2)) == [old.id]


async def test_no_observations(owner: AsyncEngine) -> None:
    """Without any observation there is nothing to remove."""
    assert await remove_notes(owner, "mallory", None) == []


async def test_retry_does_not_restore_a_note(database: AsyncEngine, owner: AsyncEngine) -> None:
    """A report that is sent again with its key after its note was removed stores nothing."""
    await store(database, SPAM, "one")
    await remove_notes(owner, "mallory", None)
    with pytest.raises(KeyReusedError):
        await store(database, SPAM, "one")

    assert await stored_notes(database) == [None]


async def test_error_has_the_progress(
    database: AsyncEngine, owner: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a batch fails, those before it are done, and a note of the error has their number."""
    monkeypatch.setattr(notes, "BATCH_SIZE", 2)
    spam: list[Observation] = [(await store(database, SPAM))[0] for _ in range(3)]
    async with owner.begin() as connection:
        await connection.execute(text(f"ALTER TABLE observations ADD CHECK (id <> {spam[2].id} OR note IS NOT NULL)"))
    with pytest.raises(DBAPIError) as caught:
        await remove_notes(owner, "mallory", None)

    assert caught.value.__notes__[0].endswith(" removed before the error")
    assert (await stored_notes(database))[0] is None
    assert (await stored_notes(database))[2] == "spam"
