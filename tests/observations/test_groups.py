"""Groups of writes: reports that arrive together share a transaction, and each gets the outcome that it would get alone."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from structlog.contextvars import bound_contextvars, merge_contextvars
from structlog.testing import capture_logs

from gateway.devstack.postgresql import PostgreSQLServer
from gateway.observations import groups
from gateway.observations.groups import GroupStore, Submission
from gateway.observations.queries import Observation
from gateway.observations.reports import KeyReusedError, NewObservation, Report, Stored, UnknownPlaceError
from gateway.observations.store import insert_reports
from gateway.observations.writer import MAX_GROUP_SIZE, ObservationWriter, WriteRejectedError, WriteUnavailableError
from gateway.schema.tables import observations, outbox, places
from tests.observations.conftest import PLACES, locked_place
from tests.observations.test_writer import row_counts
from tests.support.database_locks import is_waiting_for_lock
from tests.support.waiting import wait_until

PLACE_IDS = [place[0] for place in PLACES]
UNKNOWN_PLACE_ID = 1
RAIN = NewObservation(PLACE_IDS[0], 12.5, "rain", "wet")
BAD = replace(RAIN, note="bad")  # rejected by the constraint of `rejecting`
NEVER = 3600.0


@pytest.fixture
async def writer(database: AsyncEngine) -> AsyncIterator[ObservationWriter]:
    writer = ObservationWriter(database, on_stored=lambda: None)
    async with writer.open():
        yield writer


@pytest.fixture
async def rejecting(owner: AsyncEngine) -> None:
    """The database rejects a note."""
    async with owner.begin() as connection:
        await connection.execute(text("ALTER TABLE observations ADD CHECK (note <> 'bad')"))


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the groups that were sent to the database, in their order."""
    sizes: list[int] = []

    async def count_and_insert(connection: AsyncConnection, reports: Sequence[Report]) -> list[Observation | None]:
        sizes.append(len(reports))
        return await insert_reports(connection, reports)

    monkeypatch.setattr(groups, "insert_reports", count_and_insert)
    return sizes


def write_all(writer: ObservationWriter, *reports: tuple[NewObservation, str | None]) -> list[asyncio.Task[Stored]]:
    """Start writes that share a group."""
    return [asyncio.create_task(writer.write(new, key)) for new, key in reports]


async def outcomes_of(tasks: list[asyncio.Task[Stored]]) -> list[Any]:
    """Return the results, with the types of the errors."""
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    return [type(outcome) if isinstance(outcome, BaseException) else outcome for outcome in outcomes]


@asynccontextmanager
async def group_in_flight(writer: ObservationWriter, database: AsyncEngine, owner: AsyncEngine) -> AsyncIterator[None]:
    """Hold up a group that has reports of the first place, from its start to the end of the block."""
    async with locked_place(owner, PLACE_IDS[0]):
        yield
        await wait_until(lambda: is_waiting_for_lock(database), "the group waits for the place")
        assert writer.groups_in_flight == 1


class TestGroups:
    async def test_arrivals_share_the_next_transaction(
        self, writer: ObservationWriter, database: AsyncEngine, owner: AsyncEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Writes that arrive while a transaction is in progress share the next one, up to the maximum size of a group."""
        monkeypatch.setattr("gateway.observations.writer.NEXT_GROUP_DELAY", NEVER)
        async with group_in_flight(writer, database, owner):
            first = write_all(writer, (RAIN, None))
            await wait_until(lambda: writer.groups_in_flight == 1, "the first group has started")
            others = write_all(writer, *[(RAIN, None)] * (MAX_GROUP_SIZE + 7))
        stored = await asyncio.gather(*first, *others)

        assert len({observation.id for observation, _ in stored}) == MAX_GROUP_SIZE + 8
        sizes = (
            select(func.count())
            .select_from(observations)
            .group_by(text("xmin::text"))
            .order_by(func.min(observations.c.id))
        )
        async with database.connect() as connection:
            assert (await connection.scalars(sizes)).all() == [1, MAX_GROUP_SIZE, 7]
        assert await row_counts(database) == (MAX_GROUP_SIZE + 8,) * 2

    async def test_each_caller_gets_its_own_observation(self, writer: ObservationWriter, database: AsyncEngine) -> None:
        """Each write returns what it has stored, and each event refers to one of the observations."""
        reports = [
            (
                NewObservation(PLACE_IDS[number % 3], float(number), "rain", f"note {number}"),
                f"key {number}" if number % 2 else None,
            )
            for number in range(40)
        ]
        stored = await asyncio.gather(*write_all(writer, *reports))

        assert [(seen.place_id, seen.temperature_c, seen.note) for seen, _ in stored] == [
            (new.place_id, new.temperature_c, new.note) for new, _ in reports
        ]
        async with database.connect() as connection:
            bodies = [
                json.loads(body)["data"]
                for body in await connection.scalars(select(outbox.c.body).order_by(outbox.c.id))
            ]
        assert bodies == [{"observation_id": seen.id, "place_id": seen.place_id} for seen, _ in stored]

    async def test_same_key_in_one_group(
        self, writer: ObservationWriter, database: AsyncEngine, attempts: list[int]
    ) -> None:
        """Of several writes with one key in a group the first one is stored. The others are replays, or get an error."""
        other = replace(RAIN, temperature_c=1.0)
        first, replay, reused = await outcomes_of(write_all(writer, (RAIN, "one"), (RAIN, "one"), (other, "one")))

        assert attempts == [3]
        assert first.is_new
        assert replay == Stored(first.observation, is_new=False)
        assert reused is KeyReusedError
        assert await row_counts(database) == (1, 1)

    @pytest.mark.usefixtures("rejecting")
    async def test_bad_row_affects_no_other(
        self, writer: ObservationWriter, database: AsyncEngine, attempts: list[int]
    ) -> None:
        """If the database rejects one row of a group, the others are stored, each in a transaction of its own."""
        good = [replace(RAIN, note=note) for note in "abc"]
        outcomes = await outcomes_of(write_all(writer, *[(new, None) for new in (good[0], BAD, *good[1:])]))

        assert outcomes[1] is IntegrityError
        assert [outcome.observation.note for outcome in (outcomes[0], *outcomes[2:])] == ["a", "b", "c"]
        assert attempts == [4, 1, 1, 1, 1]
        assert await row_counts(database) == (3, 3)

    async def test_unknown_place_costs_no_attempt(
        self, writer: ObservationWriter, database: AsyncEngine, attempts: list[int]
    ) -> None:
        """A report of an unknown place gets its error from the statement of the group."""
        unknown = replace(RAIN, place_id=UNKNOWN_PLACE_ID)
        outcomes = await outcomes_of(write_all(writer, (unknown, None), (RAIN, None), (unknown, "one"), (RAIN, "one")))

        assert outcomes[0::2] == [UnknownPlaceError] * 2
        assert [outcome.is_new for outcome in outcomes[1::2]] == [True] * 2
        assert attempts == [4]
        assert await row_counts(database) == (2, 2)

    @pytest.mark.parametrize("key", [None, "one"])
    async def test_place_deleted_during_the_statement(
        self, writer: ObservationWriter, database: AsyncEngine, owner: AsyncEngine, key: str | None
    ) -> None:
        """A place that is deleted while the statement runs is unknown. Reports of other places are stored."""
        async with owner.begin() as connection:
            await connection.execute(delete(places).where(places.c.id == PLACE_IDS[0]))
            calls = write_all(writer, (RAIN, key), (replace(RAIN, place_id=PLACE_IDS[1]), key))
            await wait_until(lambda: is_waiting_for_lock(database), "the group waits for the deletion")
        unknown, stored = await outcomes_of(calls)

        assert unknown is UnknownPlaceError
        assert stored.is_new
        assert await row_counts(database) == (1, 1)

    async def test_place_deleted_during_a_single_write(
        self, writer: ObservationWriter, database: AsyncEngine, owner: AsyncEngine, attempts: list[int]
    ) -> None:
        """The same for a group of one report, which is not tried again."""
        async with owner.begin() as connection:
            await connection.execute(delete(places).where(places.c.id == PLACE_IDS[0]))
            calls = write_all(writer, (RAIN, None))
            await wait_until(lambda: is_waiting_for_lock(database), "the group waits for the deletion")

        assert await outcomes_of(calls) == [UnknownPlaceError]
        assert attempts == [1]

    async def test_deadlock(
        self, writer: ObservationWriter, database: AsyncEngine, owner: AsyncEngine, attempts: list[int]
    ) -> None:
        """A group that is rolled back because of a deadlock is stored one by one: a single report locks one place only."""
        async with locked_place(owner, PLACE_IDS[1]) as connection:
            calls = write_all(writer, *[(replace(RAIN, place_id=place_id), None) for place_id in PLACE_IDS[:2]])
            await wait_until(lambda: is_waiting_for_lock(database), "the group waits for the second place")
            await connection.execute(select(places).where(places.c.id == PLACE_IDS[0]).with_for_update())

        assert [outcome.is_new for outcome in await outcomes_of(calls)] == [True] * 2
        assert attempts == [2, 1, 1]
        assert await row_counts(database) == (2, 2)

    async def test_slow_group_holds_up_no_other(
        self, writer: ObservationWriter, database: AsyncEngine, owner: AsyncEngine
    ) -> None:
        """While a group waits for a lock, further groups are stored concurrently."""
        async with group_in_flight(writer, database, owner):
            (slow,) = write_all(writer, (RAIN, None))
            await wait_until(lambda: is_waiting_for_lock(database), "the group waits for the place")
            for _ in range(3):
                await writer.write(replace(RAIN, place_id=PLACE_IDS[1]), None)
            assert not slow.done()
        assert (await slow).is_new


class TestCallers:
    async def test_cancelled_caller_affects_no_other(
        self, writer: ObservationWriter, database: AsyncEngine, owner: AsyncEngine
    ) -> None:
        """A caller that is cancelled does not interrupt its group. Its own report is stored, and logged."""
        with capture_logs() as lines:
            async with group_in_flight(writer, database, owner):
                calls = write_all(writer, *[(RAIN, None)] * 3)
                await wait_until(lambda: writer.groups_in_flight == 1, "the group has started")
                calls[1].cancel()
                await asyncio.wait(calls[1:2])
            outcomes = await outcomes_of(calls)

        assert [isinstance(outcome, Stored) for outcome in outcomes] == [True, False, True]
        assert [line["event"] for line in lines] == ["observation stored"] * 3
        assert await row_counts(database) == (3, 3)

    async def test_caller_cancelled_before_the_start(
        self, writer: ObservationWriter, database: AsyncEngine, owner: AsyncEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The report of a caller that is cancelled while it waits for its turn is not stored."""
        monkeypatch.setattr("gateway.observations.writer.NEXT_GROUP_DELAY", NEVER)
        async with group_in_flight(writer, database, owner):
            calls = write_all(writer, (RAIN, None))
            await wait_until(lambda: writer.groups_in_flight == 1, "the first group has started")
            calls += write_all(writer, (RAIN, None), (RAIN, None))
            await asyncio.sleep(0)  # they wait
            calls[1].cancel()
        assert [isinstance(outcome, Stored) for outcome in await outcomes_of(calls)] == [True, False, True]
        assert await row_counts(database) == (2, 2)

    async def test_late_turn_is_a_rejection(
        self, writer: ObservationWriter, database: AsyncEngine, owner: AsyncEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A write that has no turn in time is rejected and not stored later. One that has started has an unknown outcome."""
        monkeypatch.setattr("gateway.observations.writer.NEXT_GROUP_DELAY", NEVER)
        monkeypatch.setattr("gateway.observations.writer.WRITE_TIMEOUT", 0.3)
        async with group_in_flight(writer, database, owner):
            calls = write_all(writer, (RAIN, None))
            await wait_until(lambda: writer.groups_in_flight == 1, "the first group has started")
            calls += write_all(writer, (RAIN, None))
            outcomes = await outcomes_of(calls)
        await wait_until(lambda: writer.groups_in_flight == 0, "the first group has ended")

        assert outcomes == [WriteUnavailableError, WriteRejectedError]
        assert await row_counts(database) == (1, 1)

    async def test_log_lines_belong_to_requests(self, writer: ObservationWriter) -> None:
        """The log line of each observation has the variables of its own request, and only once for a key."""

        async def request(number: int) -> None:
            with bound_contextvars(request_id=number):
                await writer.write(replace(RAIN, temperature_c=number), f"key {number}")

        with capture_logs(processors=[merge_contextvars]) as lines:
            await asyncio.gather(*map(request, range(5)), *map(request, range(5)))
        assert [line["request_id"] for line in lines] == list(range(5))


class TestOutages:
    @pytest.mark.parametrize("signal", ["terminate", "cancel"])
    async def test_lost_transaction_is_not_repeated(  # noqa: PLR0917 - fixtures
        self,
        writer: ObservationWriter,
        database: AsyncEngine,
        owner: AsyncEngine,
        postgresql_server: PostgreSQLServer,
        attempts: list[int],
        signal: str,
    ) -> None:
        """If the connection is lost or the statement cancelled, all callers get a 503 at once. No report is tried alone."""
        reports = [(RAIN, f"key {number}") for number in range(5)]
        async with locked_place(owner, PLACE_IDS[0]):
            calls = write_all(writer, *reports)
            await wait_until(lambda: is_waiting_for_lock(database), "the group waits for the place")
            async with postgresql_server.superuser(database.url.database or "") as superuser:
                await superuser.execute(
                    f"SELECT pg_{signal}_backend(pid) FROM pg_stat_activity "  # noqa: S608 - constants
                    "WHERE datname = current_database() AND wait_event_type = 'Lock'"
                )
            outcomes = await outcomes_of(calls)
        assert outcomes == [WriteUnavailableError] * 5
        assert attempts == [5]
        assert await row_counts(database) == (0, 0)
        again = await asyncio.gather(*write_all(writer, *reports))
        assert [stored.is_new for stored in again] == [True] * 5

    @pytest.mark.usefixtures("rejecting")
    async def test_outage_during_the_single_writes(
        self, writer: ObservationWriter, database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If the database becomes unavailable while the reports of a group are tried alone, the rest is not tried."""
        attempts: list[int] = []

        async def fail_third(connection: AsyncConnection, reports: Sequence[Report]) -> list[Observation | None]:
            attempts.append(len(reports))
            if len(attempts) == 3:
                raise ConnectionResetError
            return await insert_reports(connection, reports)

        monkeypatch.setattr(groups, "insert_reports", fail_third)
        outcomes = await outcomes_of(write_all(writer, (RAIN, None), *[(BAD, None)] * 4))

        assert isinstance(outcomes[0], Stored)
        assert outcomes[1:] == [WriteUnavailableError] * 4
        assert attempts == [5, 1, 1]
        assert await row_counts(database) == (1, 1)

    async def test_lost_connection_after_the_insertion(
        self, writer: ObservationWriter, database: AsyncEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If the connection is lost after the commit, what is stored is reported as stored, and only the rest is unknown."""

        async def fail(*_: object) -> None:
            raise ConnectionResetError

        monkeypatch.setattr(groups, "explain_unstored", fail)
        stored, unknown = await outcomes_of(write_all(writer, (RAIN, "one"), (RAIN, "one")))

        assert stored.is_new
        assert unknown is WriteUnavailableError
        assert await row_counts(database) == (1, 1)


@st.composite
def reports(draw: st.DrawFn) -> Report:
    """A report with few different places, values and keys, so that groups have duplicates, conflicts and bad rows."""
    new = NewObservation(
        draw(st.sampled_from([*PLACE_IDS[:2], UNKNOWN_PLACE_ID])),
        draw(st.sampled_from([1.0, 2.0])),
        "rain",
        draw(st.sampled_from([None, "good", "bad"])),
        reporter=draw(st.sampled_from(["", "alice"])),
    )
    return Report(new, draw(st.sampled_from([None, "a", "b"])))


def expected_outcome(report: Report, by_key: dict[str, NewObservation]) -> object:
    """Return the outcome of a report that is stored alone: whether it is new, or the type of the error."""
    if report.new.place_id == UNKNOWN_PLACE_ID:
        return UnknownPlaceError
    if report.new.note == "bad":
        return IntegrityError
    key = report.stored_key
    if key is None:
        return True
    is_new = key not in by_key
    return is_new if by_key.setdefault(key, report.new) == report.new else KeyReusedError


@pytest.mark.usefixtures("rejecting")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(example=st.lists(st.lists(reports(), min_size=1, max_size=8), min_size=1, max_size=3))
async def test_outcomes_are_those_of_single_writes(database: AsyncEngine, example: list[list[Report]]) -> None:
    """Each report of any group has the outcome that it has alone, after the ones before it."""
    prefix = uuid4().hex  # the keys of this example
    store = GroupStore(database, on_stored=lambda: None)
    by_key: dict[str, NewObservation] = {}
    rows, events = await row_counts(database)
    number_of_new = 0
    for group in example:
        given_reports = [Report(new, key and prefix + key) for new, key, _ in group]
        submissions = [Submission(report) for report in given_reports]
        await store.store(submissions)
        for submission in submissions:
            report, error = submission.report, submission.outcome.exception()
            if error is not None:
                assert type(error) is expected_outcome(report, by_key)
                continue
            stored = submission.outcome.result()
            assert stored.is_new is expected_outcome(report, by_key)
            assert report.is_equal_to(stored.observation)
            number_of_new += stored.is_new
    assert await row_counts(database) == (rows + number_of_new, events + number_of_new)
