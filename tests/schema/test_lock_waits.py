"""Migrations of a database in use: readers go on, reports name the sessions that hold the locks, and the wait is limited."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.devstack.postgresql import PostgreSQLServer
from gateway.schema import lock_waits
from gateway.schema.lock_waits import LOCK_TIMEOUT, LockHolder, LockWaitError
from gateway.schema.migrate import MigrationResult, migrate
from gateway.schema.revision import REVISIONS, current_revision
from gateway.schema.transaction import transaction
from tests.schema.conftest import PREVIOUS_REVISION
from tests.support.waiting import TIMEOUT, wait_until

INDEX = "ix_observations_idempotency_key"  # the first one of revision 0004
SNAPSHOT = ["SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT 1 FROM places"]  # revision 0004 waits for it
STEPS = "FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'CREATE % CONCURRENTLY %'"
LOOKS = "FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%pg_blocking_pids%' AND pid <> pg_backend_pid()"
IS_VALID = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")


@asynccontextmanager
async def reader(url: str, *statements: str) -> AsyncIterator[AsyncConnection]:
    """A transaction that has executed the statements, or has read the outbox, and is idle since then."""
    async with transaction(url, application_name="reader") as connection:
        for statement in statements or ["SELECT 1 FROM outbox"]:
            await connection.execute(text(statement))
        yield connection


@asynccontextmanager
async def running_migration(
    url: str, reports: list[str], *, lock_wait: float = 60
) -> AsyncIterator["asyncio.Task[MigrationResult]"]:
    """A migration in the background that appends its reports to the list."""
    task = asyncio.create_task(migrate(url, lock_wait=lock_wait, report=reports.append))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def limit_connections(server: PostgreSQLServer, url: str) -> None:
    """Reject further connections to the database."""
    async with server.superuser() as superuser:
        await superuser.execute(f'ALTER DATABASE "{url.rpartition("/")[2]}" CONNECTION LIMIT 0')


async def max_read_time(engine: AsyncEngine, *, duration: float) -> float:
    """Read the outbox again and again. Return the seconds of the slowest SELECT."""
    slowest = 0.0
    started_at = time.monotonic()
    async with engine.connect() as connection:
        while (before := time.monotonic()) < started_at + duration:
            await connection.execute(text("SELECT count(*) FROM outbox"))
            slowest = max(slowest, time.monotonic() - before)
            await asyncio.sleep(0.02)
    return slowest


class TestLongReader:
    async def test_other_readers_go_on(self, previous_database: str, engine: AsyncEngine) -> None:
        """Behind a long reader, a migration blocks others for the lock timeout at most, and ends after the reader."""
        reports: list[str] = []
        async with running_migration(previous_database, reports) as migration:
            async with reader(previous_database):
                slowest = await max_read_time(engine, duration=4 * LOCK_TIMEOUT)
                assert not migration.done()
            async with asyncio.timeout(TIMEOUT):
                assert await migration == MigrationResult(PREVIOUS_REVISION, REVISIONS[2:])

        assert slowest < LOCK_TIMEOUT + 0.5

    async def test_report_names_the_reader(self, previous_database: str) -> None:
        """The report has the process id, the name, the state and the statement of the reader, without values."""
        reports: list[str] = []
        async with reader(previous_database) as other, running_migration(previous_database, reports):
            pid = await other.scalar(text("SELECT pg_backend_pid()"))
            await wait_until(lambda: bool(reports), "the migration reports its wait")

        assert reports[0].startswith(f"revision 0003 waits for pid {pid} (reader, idle in transaction, ")
        assert "SELECT pg_backend_pid()" in reports[0]

    async def test_wait_is_limited(self, previous_database: str, connection: AsyncConnection) -> None:
        """A migration that does not get its locks in time raises an error that names the session, and changes nothing."""
        async with reader(previous_database):
            with pytest.raises(LockWaitError, match=r"revision 0003 .* within 0.5 s: end pid \d+ \(reader, idle in tr"):
                await migrate(previous_database, lock_wait=0.5)

        assert await current_revision(connection) == PREVIOUS_REVISION

    async def test_interrupted_index_is_created_again(
        self, previous_database: str, connection: AsyncConnection
    ) -> None:
        """A concurrent index that was interrupted is invalid. The next migration drops it and creates a valid one."""
        async with reader(previous_database, *SNAPSHOT):
            with pytest.raises(LockWaitError, match=r"revision 0004 .* \(reader, idle in transaction, "):
                await migrate(previous_database, lock_wait=1)
        assert await connection.scalar(IS_VALID, {"name": INDEX}) is False

        assert await migrate(previous_database) == MigrationResult("0003", REVISIONS[3:])
        assert await connection.scalar(IS_VALID, {"name": INDEX}) is True

    async def test_name_in_the_url(self, previous_database: str) -> None:
        """A concurrent index is cancelled at the deadline also if the URL names the connections."""
        async with reader(previous_database, *SNAPSHOT), asyncio.timeout(TIMEOUT):
            with pytest.raises(LockWaitError, match=r"revision 0004 .* \(reader, idle in transaction, "):
                await migrate(f"{previous_database}?application_name=reader", lock_wait=1)

    async def test_holders_are_unknown(
        self,
        previous_database: str,
        connection: AsyncConnection,
        postgresql_server: PostgreSQLServer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A step is cancelled if no connection is left to watch it. The error has the server's reason."""
        monkeypatch.setattr(lock_waits, "POLL_INTERVAL", 2)  # the limit is set before the first look
        monkeypatch.setattr(lock_waits, "UNWATCHED_TIMEOUT", 3)

        async def is_creating_the_index() -> bool:
            return bool(await connection.scalar(text(f"SELECT EXISTS (SELECT {STEPS})")))

        async with reader(previous_database, *SNAPSHOT), running_migration(previous_database, [], lock_wait=1) as task:
            await wait_until(is_creating_the_index, "the migration creates an index")
            await limit_connections(postgresql_server, previous_database)
            with pytest.raises(LockWaitError, match=r"revision 0004 .* end an unknown session \(too many connections"):
                async with asyncio.timeout(TIMEOUT):
                    await task

    async def test_holders_become_unknown(
        self, previous_database: str, connection: AsyncConnection, postgresql_server: PostgreSQLServer
    ) -> None:
        """A step ends at the deadline also if the locks cannot be read any more. The report has the server's reason."""
        reports: list[str] = []
        async with (
            reader(previous_database, *SNAPSHOT),
            running_migration(previous_database, reports, lock_wait=3) as task,
        ):
            await wait_until(lambda: bool(reports), "the migration reports its wait")
            await limit_connections(postgresql_server, previous_database)
            await connection.execute(text(f"SELECT pg_terminate_backend(pid) {LOOKS}"))
            with pytest.raises(LockWaitError, match=r"revision 0004 .* \(reader, idle in transaction, "):
                async with asyncio.timeout(TIMEOUT):
                    await task

        assert "they cannot be read: too many connections for database" in reports[-1]


class TestInterruptedIndex:
    async def test_cancellation(self, previous_database: str, connection: AsyncConnection) -> None:
        """The cancellation of a migration that creates a concurrent index cancels its statement in the server."""
        reports: list[str] = []
        async with reader(previous_database, *SNAPSHOT), running_migration(previous_database, reports) as task:
            await wait_until(lambda: bool(reports), "the migration reports its wait")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await connection.scalar(text(f"SELECT count(*) {STEPS} AND state = 'active'")) == 0

    async def test_terminated_session(self, previous_database: str, connection: AsyncConnection) -> None:
        """A session that ends while it creates a concurrent index raises the error of the server."""
        reports: list[str] = []
        async with reader(previous_database, *SNAPSHOT), running_migration(previous_database, reports) as task:
            await wait_until(lambda: bool(reports), "the migration reports its wait")
            await connection.execute(text(f"SELECT pg_terminate_backend(pid) {STEPS}"))
            with pytest.raises(DBAPIError, match="terminating connection"):
                await task


class TestServerTimeouts:
    @pytest.mark.parametrize("parameter", ["lock_timeout", "statement_timeout"])
    async def test_timeouts_of_a_concurrent_index(
        self, previous_database: str, connection: AsyncConnection, postgresql_server: PostgreSQLServer, parameter: str
    ) -> None:
        """A timeout of the database does not end a statement outside of a transaction."""
        async with postgresql_server.superuser() as superuser:
            await superuser.execute(f'ALTER DATABASE "{previous_database.rpartition("/")[2]}" SET {parameter} = 300')
        is_late = text(f"SELECT EXISTS (SELECT {STEPS} AND clock_timestamp() > query_start + interval '0.6 s')")
        async with running_migration(previous_database, []) as task:
            async with reader(previous_database, *SNAPSHOT):

                async def is_over() -> bool:
                    return task.done() or bool(await connection.scalar(is_late))

                await wait_until(is_over, "the timeout is over")
            assert (await task).applied == REVISIONS[2:]

    async def test_timeouts_of_the_database(self, previous_database: str, postgresql_server: PostgreSQLServer) -> None:
        """Short timeouts of the database end neither the lock of the migration nor a revision."""
        name = previous_database.rpartition("/")[2]
        async with postgresql_server.superuser() as superuser:
            for parameter in ("idle_in_transaction_session_timeout", "lock_timeout"):
                await superuser.execute(f'ALTER DATABASE "{name}" SET {parameter} = 100')
        reports: list[str] = []
        async with running_migration(previous_database, reports) as migration:
            async with reader(previous_database, "SET idle_in_transaction_session_timeout = 0", "SELECT 1 FROM outbox"):
                await wait_until(lambda: bool(reports), "the migration waits for the reader")
            assert (await migration).applied == REVISIONS[2:]


@pytest.mark.parametrize(
    ("holder", "expected"),
    [
        (
            LockHolder(7, "psql", "active", 3.4, "SELECT  1\n FROM t1 LIMIT 10"),
            "pid 7 (psql, active, 3 s): SELECT ? FROM t1 LIMIT ?",
        ),
        (
            LockHolder(7, "psql", "active", 3, "ALTER ROLE x PASSWORD 'hunter2'"),
            "pid 7 (psql, active, 3 s): ALTER ROLE x PASSWORD...",
        ),
        (LockHolder(7, "psql", "active", 3, "DO $$ hunter2 $$"), "pid 7 (psql, active, 3 s): DO..."),
        (LockHolder(7, "", "active", 3, "SELECT $1"), "pid 7 (active, 3 s): SELECT $1"),
        (LockHolder(7, "psql", None, None, "<insufficient privilege>"), "pid 7 (psql): <insufficient privilege>"),
        (LockHolder(7), "pid 7 (unknown): -"),
        (LockHolder(0), "a prepared transaction (see pg_prepared_xacts)"),
    ],
    ids=["numbers", "string", "dollar quotes", "parameter", "no permission", "no session", "prepared"],
)
def test_holder_in_words(holder: LockHolder, expected: str) -> None:
    """A session is described without the values in its statement."""
    assert str(holder) == expected
