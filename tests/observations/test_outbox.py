"""The entries of the outbox for an operator."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.observations.outbox import drop_entries, list_entries, replay_entries
from gateway.schema.tables import outbox
from tests.support.database_locks import is_waiting_for_lock
from tests.support.waiting import wait_until

Command = Callable[[AsyncEngine, None], Coroutine[Any, Any, list[int]]]


@pytest.fixture
async def parked(database: AsyncEngine) -> list[int]:
    """The ids of three parked entries. A fourth one waits."""
    values = {"type": "a.type", "body": '{"id": "é"}'}
    parked = {"attempts": 10, "parked_at": func.now(), "last_error": "no queue"}
    async with database.begin() as connection:
        rows = [
            await connection.scalar(insert(outbox).values(event_id=uuid4(), **values, **extra).returning(outbox.c.id))
            for extra in (parked, parked, parked, {})
        ]
    return [row for row in rows[:3] if row]


async def waiting(database: AsyncEngine) -> list[int]:
    """Return the ids of the entries that the relay would publish now."""
    due = (outbox.c.parked_at.is_(None), outbox.c.next_attempt_at <= func.now(), outbox.c.attempts == 0)
    async with database.connect() as connection:
        return list(await connection.scalars(select(outbox.c.id).where(*due).order_by(outbox.c.id)))


async def test_list_has_the_parked_entries(database: AsyncEngine, parked: list[int]) -> None:
    """The list has the oldest parked entries with the reason, and no body unless it is requested."""
    first, second = await list_entries(database, with_waiting=False, with_body=False, limit=2)

    assert [first.id, second.id] == parked[:2]
    assert (first.type, first.attempts, first.parked, first.size, first.error) == ("a.type", 10, True, 12, "no queue")
    assert 0 <= first.age_s < 600
    assert first.body is None
    (with_body,) = await list_entries(database, with_waiting=False, with_body=True, limit=1)
    assert with_body.body == '{"id": "é"}'


async def test_list_of_all_has_the_waiting_ones(database: AsyncEngine, parked: list[int]) -> None:
    """The list of all entries has those that wait, too."""
    entries = await list_entries(database, with_waiting=True, with_body=False, limit=10)

    assert [entry.parked for entry in entries] == [True, True, True, False]
    assert [entry.id for entry in entries[:3]] == parked


async def test_replay_of_some(database: AsyncEngine, parked: list[int]) -> None:
    """Entries that are replayed are due immediately. Unknown ids and entries that are not parked are left out."""
    (fourth,) = await waiting(database)
    assert await replay_entries(database, [parked[1], fourth, 10**9]) == [parked[1]]
    assert await waiting(database) == [parked[1], fourth]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 10])
async def test_replay_of_all(
    database: AsyncEngine, parked: list[int], batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All parked entries are replayed, in batches."""
    monkeypatch.setattr("gateway.observations.outbox.BATCH_SIZE", batch_size)
    assert await replay_entries(database, None) == parked
    assert len(await waiting(database)) == 4


async def test_drop_deletes_parked_entries_only(database: AsyncEngine, parked: list[int]) -> None:
    """Parked entries are deleted, some or all. An entry that waits is never deleted."""
    assert await drop_entries(database, [parked[0], parked[0] + 3]) == parked[:1]
    assert await drop_entries(database, None) == parked[1:]
    assert len(await waiting(database)) == 1


@pytest.mark.parametrize("command", [drop_entries, replay_entries])
async def test_entry_that_is_no_longer_parked(
    database: AsyncEngine, parked: list[int], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that has waited for the lock of a concurrent replay does not change the entry. It changes all others."""
    monkeypatch.setattr("gateway.observations.outbox.BATCH_SIZE", 2)
    async with asyncio.TaskGroup() as group, database.begin() as connection:
        await connection.execute(update(outbox).values(attempts=3, parked_at=None).where(outbox.c.id == parked[0]))
        task = group.create_task(command(database, None))
        await wait_until(lambda: is_waiting_for_lock(database), "the command waits for the replay")
    assert task.result() == parked[1:]
    async with database.connect() as connection:
        assert await connection.scalar(select(outbox.c.attempts).where(outbox.c.id == parked[0])) == 3


async def test_error_of_a_later_batch(
    database: AsyncEngine, owner: AsyncEngine, parked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of a batch has the number of the entries that were dropped before, whose transactions are committed."""
    monkeypatch.setattr("gateway.observations.outbox.BATCH_SIZE", 2)
    async with owner.begin() as connection:
        await connection.execute(text("CREATE TABLE keeps (id bigint REFERENCES outbox)"))
        await connection.execute(text("INSERT INTO keeps VALUES (:id)"), {"id": parked[2]})

    with pytest.raises(IntegrityError) as caught:
        await drop_entries(database, None)
    assert caught.value.__notes__ == ["2 dropped before the error"]
