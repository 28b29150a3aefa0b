"""The write path: an observation and its event are stored together, and once for each idempotency key."""

import asyncio
import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from structlog.testing import capture_logs

from gateway.devstack.postgresql import PostgreSQLServer
from gateway.events.messages import ObservationReported, decode
from gateway.observations.reports import KeyInFlightError, KeyReusedError, NewObservation, Stored, UnknownPlaceError
from gateway.observations.writer import MAX_GROUP_SIZE, ObservationWriter, WriteRejectedError, WriteUnavailableError
from gateway.resources.database import MAX_WRITES
from gateway.schema.tables import MAX_PLACE_ID, observations, outbox
from tests.observations.conftest import PLACES, locked_place
from tests.support.reports import insert_observation
from tests.support.waiting import wait_until

PLACE_ID, OTHER_PLACE_ID = PLACES[0][0], PLACES[1][0]
OBSERVED_AT = datetime(2026, 11, 24, 14, 15, tzinfo=timezone(timedelta(hours=-3, minutes=-30)))
RAIN = NewObservation(PLACE_ID, 12.5, "rain", "wet", OBSERVED_AT)
ALICE = replace(RAIN, reporter="alice")


async def row_counts(database: AsyncEngine) -> tuple[int, int]:
    """Return the numbers of observations and of outbox entries."""
    async with database.connect() as connection:
        counts = [await connection.scalar(select(func.count()).select_from(table)) for table in (observations, outbox)]
    return counts[0] or 0, counts[1] or 0


async def store(database: AsyncEngine, new: NewObservation, idempotency_key: str | None = None) -> Stored:
    async with database.begin() as connection:
        return await insert_observation(connection, new, idempotency_key)


class TestStore:
    async def test_event_references_the_observation(self, database: AsyncEngine) -> None:
        """The outbox entry is an event with the ids of the observation and of its place."""
        observation, is_new = await store(database, RAIN)

        async with database.connect() as connection:
            (entry,) = (await connection.execute(outbox.select())).all()
        event = decode(entry.body.encode(), ObservationReported)
        assert is_new
        assert (observation.place_id, observation.temperature_c, observation.note) == (PLACE_ID, 12.5, "wet")
        assert (event.data.observation_id, event.data.place_id) == (observation.id, PLACE_ID)
        assert (event.id, event.type) == (entry.event_id, entry.type)

    async def test_failed_event_stores_no_observation(self, database: AsyncEngine, owner: AsyncEngine) -> None:
        """If the event cannot be stored, the observation is not stored either."""
        async with owner.begin() as connection:
            await connection.execute(text("ALTER TABLE outbox ADD CHECK (false)"))
        with pytest.raises(DBAPIError):
            await store(database, RAIN)

        assert await row_counts(database) == (0, 0)

    async def test_same_key_returns_the_first_observation(self, database: AsyncEngine) -> None:
        """A second write with the same key returns the first observation and stores no second event."""
        first, _ = await store(database, RAIN, "one")
        second, is_new = await store(database, RAIN, "one")

        assert (first, is_new) == (second, False)
        assert await row_counts(database) == (1, 1)

    async def test_same_time_in_another_zone_is_equal(self, database: AsyncEngine) -> None:
        """A second write with the same key may have the same time with another offset."""
        first, _ = await store(database, RAIN, "one")
        elsewhere = OBSERVED_AT.astimezone(timezone(timedelta(hours=5, minutes=45)))
        second, is_new = await store(database, replace(RAIN, observed_at=elsewhere), "one")

        assert (first, is_new) == (second, False)
        assert first.observed_at == OBSERVED_AT

    async def test_every_write_without_key_is_stored(self, database: AsyncEngine) -> None:
        """Two equal observations without a key are two observations."""
        first, _ = await store(database, RAIN)
        second, _ = await store(database, RAIN)

        assert first.id != second.id
        assert await row_counts(database) == (2, 2)

    async def test_reporter_is_stored(self, database: AsyncEngine) -> None:
        """The name of the API key is stored with the observation. It is empty without one."""
        await store(database, ALICE)
        await store(database, RAIN, "one")

        async with database.connect() as connection:
            reporters = await connection.scalars(select(observations.c.reporter).order_by(observations.c.id))
        assert reporters.all() == ["alice", ""]

    @pytest.mark.parametrize(
        "other",
        [
            replace(RAIN, temperature_c=12.6),
            replace(RAIN, condition="sun"),
            replace(RAIN, note=None),
            replace(RAIN, observed_at=None),
            replace(RAIN, observed_at=OBSERVED_AT + timedelta(microseconds=1)),
        ],
        ids=["temperature", "condition", "note", "no time", "time"],
    )
    async def test_reused_key_is_an_error(self, database: AsyncEngine, other: NewObservation) -> None:
        """A key that was used for a different observation raises an error, and nothing is stored."""
        await store(database, RAIN, "one")
        with pytest.raises(KeyReusedError):
            await store(database, other, "one")

        assert await row_counts(database) == (1, 1)

    @pytest.mark.parametrize(
        "other",
        [replace(ALICE, reporter="bob"), replace(ALICE, place_id=OTHER_PLACE_ID), RAIN],
        ids=["another reporter", "another place", "no reporter"],
    )
    async def test_keys_are_separate(self, database: AsyncEngine, other: NewObservation) -> None:
        """The same key of another reporter, or for another place, is another key."""
        first, _ = await store(database, ALICE, "one")
        second, is_new = await store(database, other, "one")

        assert (is_new, second.id == first.id) == (True, False)
        assert await row_counts(database) == (2, 2)

    async def test_key_in_flight(self, database: AsyncEngine) -> None:
        """While a transaction with a key has not ended, another one with the key raises an error at once. Other keys go on."""
        async with database.begin() as connection:
            first, _ = await insert_observation(connection, RAIN, "one")
            for other in (RAIN, replace(RAIN, note="another")):
                with pytest.raises(KeyInFlightError):
                    async with asyncio.timeout(1):  # the transaction would be waited for without end
                        await store(database, other, "one")
            await store(database, RAIN, "two")

        assert await store(database, RAIN, "one") == (first, False)
        assert await row_counts(database) == (2, 2)

    async def test_key_of_a_failed_transaction(self, database: AsyncEngine) -> None:
        """After a transaction with a key has failed, other connections can use the key, also while the first one is open."""
        async with database.connect() as connection:
            await insert_observation(connection, RAIN, "one")
            await connection.rollback()
            _, is_new = await store(database, replace(RAIN, note="another"), "one")

        assert is_new
        assert await row_counts(database) == (1, 1)

    async def test_concurrent_writes_with_one_key(self, database: AsyncEngine) -> None:
        """Of many concurrent writes with one key one stores the observation. The others return it, or report the first one."""
        outcomes = await asyncio.gather(*(store(database, RAIN, "one") for _ in range(20)), return_exceptions=True)

        stored = [outcome for outcome in outcomes if not isinstance(outcome, KeyInFlightError)]
        assert [is_new for _, is_new in stored].count(True) == 1  # type: ignore[misc]  # any other error fails here
        assert len({observation.id for observation, _ in stored}) == 1  # type: ignore[misc]
        assert await row_counts(database) == (1, 1)

    async def test_event_body_is_plain_json(self, database: AsyncEngine) -> None:
        """The body of an event is a JSON object with four fields, for consumers in any language."""
        observation, _ = await store(database, RAIN)

        async with database.connect() as connection:
            body = json.loads(await connection.scalar(select(outbox.c.body)) or "")
        assert set(body) == {"id", "type", "at", "data"}
        assert body["type"] == "observation.reported"
        assert body["data"] == {"observation_id": observation.id, "place_id": PLACE_ID}


class TestWriter:
    @pytest.mark.parametrize("place_id", [0, 1, -1, MAX_PLACE_ID, MAX_PLACE_ID + 1])
    @pytest.mark.parametrize("key", [None, "one"])
    async def test_unknown_place_is_an_error(self, database: AsyncEngine, place_id: int, key: str | None) -> None:
        """An unknown or impossible place raises an error, and nothing is stored."""
        writer = ObservationWriter(database, on_stored=lambda: None)
        async with writer.open():
            with pytest.raises(UnknownPlaceError):
                await writer.write(replace(RAIN, place_id=place_id), key)

        assert await row_counts(database) == (0, 0)

    async def test_relay_is_notified_after_the_commit(self, database: AsyncEngine) -> None:
        """`on_stored` is called once for a new observation, when the transaction is committed."""
        seen: list[asyncio.Task[tuple[int, int]]] = []
        writer = ObservationWriter(database, on_stored=lambda: seen.append(asyncio.create_task(row_counts(database))))
        async with writer.open():
            await writer.write(RAIN, "one")
            await writer.write(RAIN, "one")

        (counts,) = seen
        assert await counts == (1, 1)

    async def test_slow_write_goes_on_after_the_timeout(
        self, database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A caller gets an error after the write timeout. The write goes on, and a retry with the key stores nothing new."""
        writer = ObservationWriter(database, on_stored=lambda: None)
        async with writer.open():
            async with database.begin() as blocking:
                await blocking.execute(text("LOCK TABLE outbox"))
                with monkeypatch.context() as short_timeout, pytest.raises(WriteUnavailableError):
                    short_timeout.setattr("gateway.observations.writer.WRITE_TIMEOUT", 0.2)
                    await writer.write(RAIN, "one")
                assert (await blocking.execute(observations.select())).all() == []

            async def is_stored() -> bool:
                return await row_counts(database) == (1, 1)

            await wait_until(is_stored, "the observation is stored")
            _, is_new = await writer.write(RAIN, "one")
        assert not is_new
        assert await row_counts(database) == (1, 1)

    async def test_retry_while_the_first_write_is_in_flight(
        self, database: AsyncEngine, owner: AsyncEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A retry raises an error at once while the write of a caller that has timed out goes on, also in another process."""
        writer, other_process = (ObservationWriter(database, on_stored=lambda: None) for _ in range(2))
        async with writer.open(), other_process.open(), locked_place(owner, PLACE_ID):
            with monkeypatch.context() as short_timeout, pytest.raises(WriteUnavailableError):
                short_timeout.setattr("gateway.observations.writer.WRITE_TIMEOUT", 0.2)
                await writer.write(RAIN, "one")
            for retried in (writer, other_process):
                with pytest.raises(KeyInFlightError):
                    await retried.write(RAIN, "one")

        assert await row_counts(database) == (1, 1)

    async def test_killed_writer_releases_its_key(
        self, database: AsyncEngine, postgresql_server: PostgreSQLServer
    ) -> None:
        """When the connection of a write is lost before its commit, the key can be used again."""
        async with database.connect() as connection:
            await insert_observation(connection, RAIN, "one")
            async with postgresql_server.superuser() as superuser:
                await superuser.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1",
                    database.url.database,
                )
            with pytest.raises(DBAPIError):
                await connection.commit()
            await connection.invalidate()

        assert (await store(database, RAIN, "one"))[1]
        assert await row_counts(database) == (1, 1)

    async def test_first_write_looks_up_no_types(self, database: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        """The first writes of a connection, a replay among them, do not wait for asyncpg to look up types."""

        async def fail(*_: object) -> None:
            raise AssertionError("asyncpg looks up a type")

        monkeypatch.setattr("asyncpg.Connection._introspect_types", fail)
        writer = ObservationWriter(database, on_stored=lambda: None)
        async with writer.open():
            await writer.write(RAIN, "one")
            _, is_new = await writer.write(RAIN, "one")
        assert not is_new

    async def test_stored_observation_is_logged(self, database: AsyncEngine) -> None:
        """Each stored observation has one log line, with its id, its place and its reporter."""
        writer = ObservationWriter(database, on_stored=lambda: None)
        with capture_logs() as lines:
            async with writer.open():
                for _ in range(2):
                    observation, _ = await writer.write(ALICE, "one")

        assert lines == [
            {
                "event": "observation stored",
                "log_level": "info",
                "observation_id": observation.id,
                "place_id": PLACE_ID,
                "reporter": "alice",
            }
        ]

    async def test_close_ends_writes_of_cancelled_callers(
        self, database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A write whose caller was cancelled goes on, and has ended when the writer is closed."""
        monkeypatch.setattr("gateway.observations.writer.DRAIN_TIMEOUT", 0.2)
        writer = ObservationWriter(database, on_stored=lambda: None)
        async with database.begin() as blocking:
            await blocking.execute(text("LOCK TABLE outbox"))

            async def is_blocked() -> bool:
                return bool(await blocking.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")))

            async with writer.open():
                caller = asyncio.create_task(writer.write(RAIN, "one"))
                await wait_until(is_blocked, "the write waits for the lock")
                caller.cancel()
                await asyncio.wait({caller})
                assert writer.groups_in_flight == 1
            assert caller.cancelled()
            assert writer.groups_in_flight == 0
        assert await row_counts(database) == (0, 0)

    async def test_close_starts_no_waiting_write(self, database: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        """A write that waits for its turn when the writer is closed is rejected, and not stored later."""
        monkeypatch.setattr("gateway.observations.writer.DRAIN_TIMEOUT", 0.2)
        writer = ObservationWriter(database, on_stored=lambda: None)
        calls: list[asyncio.Task[object]] = []
        async with database.begin() as blocking:
            await blocking.execute(text("LOCK TABLE outbox"))
            async with writer.open():
                for groups in (*range(1, MAX_WRITES + 1), *[MAX_WRITES] * 3):
                    calls.append(asyncio.create_task(writer.write(RAIN, None)))
                    await wait_until(lambda groups=groups: writer.groups_in_flight == groups, "the write has its turn")  # type: ignore[misc]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)

        assert [type(outcome) for outcome in outcomes[:MAX_WRITES]] == [WriteUnavailableError] * MAX_WRITES
        assert [type(outcome) for outcome in outcomes[MAX_WRITES:]] == [WriteRejectedError] * 3
        assert await row_counts(database) == (0, 0)

    async def test_close_stores_accepted_writes(self, database: AsyncEngine) -> None:
        """Writes that wait when the writer is closed are stored before it is closed. Later ones are rejected."""
        writer = ObservationWriter(database, on_stored=lambda: None)
        async with writer.open():
            calls = [asyncio.create_task(writer.write(RAIN, None)) for _ in range(MAX_GROUP_SIZE + 1)]
            await asyncio.sleep(0)  # the calls begin
        assert await row_counts(database) == (MAX_GROUP_SIZE + 1,) * 2
        assert {stored.is_new for stored in await asyncio.gather(*calls)} == {True}
        with pytest.raises(WriteRejectedError, match="stopping"):
            await writer.write(RAIN, None)

    async def test_unavailable_database_is_an_error(
        self, database: AsyncEngine, postgresql_server: PostgreSQLServer
    ) -> None:
        """While the database is unavailable the outcome is reported as unknown. A retry stores the observation once."""
        writer = ObservationWriter(database, on_stored=lambda: None)
        async with writer.open():
            postgresql_server.kill()
            try:
                with pytest.raises(WriteUnavailableError):
                    await writer.write(RAIN, "one")
            finally:
                await postgresql_server.start()
            await writer.write(RAIN, "one")
        assert await row_counts(database) == (1, 1)
