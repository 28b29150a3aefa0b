"""Transient and permanent errors of the database, as real servers and asyncpg raise them."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from socket import gaierror

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.exc import DBAPIError, EmulatedDBAPIException
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.devstack.postgresql import PostgreSQLServer
from gateway.resources.base import PermanentError
from gateway.resources.database import DatabaseEngine
from gateway.resources.database_errors import (
    explain,
    is_data_error,
    is_reachable,
    is_retryable,
    is_transient,
    is_unavailable,
)
from gateway.schema.migrate import migrate
from gateway.settings import DatabaseSettings
from tests.support.waiting import TIMEOUT, wait_until

_INSERT_CONSUMED_EVENT = "INSERT INTO consumed_events (event_id) VALUES ('00000000-0000-0000-0000-000000000001')"
_INSERT_FOR_UNKNOWN_PLACE = "INSERT INTO observations (place_id, temperature_c, condition) VALUES (1, 0, 'fog')"


@pytest.fixture(scope="module")
async def url(postgresql_server: PostgreSQLServer) -> AsyncIterator[str]:
    """The URL of a migrated database that only this module uses."""
    name = f"transient_{secrets.token_hex(4)}"
    url = await postgresql_server.create_database(name)
    await migrate(url)
    yield url
    await postgresql_server.drop_database(name)


@pytest.fixture
async def database(url: str) -> AsyncIterator[AsyncEngine]:
    """The engine as the gateway creates it."""
    async with DatabaseEngine(DatabaseSettings.model_validate({"url": url}), "test").open() as engine:
        yield engine


async def failure_of(operation: Awaitable[object]) -> Exception:
    """Await the operation, and return its error as a user of the engine gets it."""
    async with asyncio.timeout(TIMEOUT):
        try:
            await operation
        except Exception as error:  # noqa: BLE001 - the error is the result
            return error
    pytest.fail("the operation did not fail")


async def _run(database: AsyncEngine, *statements: str) -> None:
    """Run the statements in one transaction."""
    async with database.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


async def _pid(connection: AsyncConnection) -> int:
    return int(await connection.scalar(text("SELECT pg_backend_pid()")) or 0)


async def deadlock(database: AsyncEngine, server: PostgreSQLServer) -> Exception:
    """Two transactions wait for each other, and the server aborts one of them."""
    del server

    async def lock(first: int, second: int, barrier: asyncio.Barrier) -> None:
        async with database.begin() as connection:
            await connection.execute(text(f"SELECT pg_advisory_xact_lock({first})"))
            await barrier.wait()
            await connection.execute(text(f"SELECT pg_advisory_xact_lock({second})"))

    barrier = asyncio.Barrier(2)
    async with asyncio.timeout(TIMEOUT):
        outcomes = await asyncio.gather(lock(1, 2, barrier), lock(2, 1, barrier), return_exceptions=True)
    (error,) = (outcome for outcome in outcomes if isinstance(outcome, Exception))
    return error


async def serialization_failure(database: AsyncEngine, server: PostgreSQLServer) -> Exception:
    """Another transaction has changed a row that this one has read."""
    del server
    await _run(database, "CREATE TABLE numbers (it integer)", "INSERT INTO numbers VALUES (1)")
    async with database.execution_options(isolation_level="REPEATABLE READ").connect() as connection:
        await connection.execute(text("SELECT * FROM numbers"))
        await _run(database, "UPDATE numbers SET it = 2")
        return await failure_of(connection.execute(text("UPDATE numbers SET it = 3")))


async def lock_timeout(database: AsyncEngine, server: PostgreSQLServer) -> Exception:
    """Another transaction holds the lock for longer than the server's `lock_timeout`."""
    del server
    async with database.begin() as connection:
        await connection.execute(text("LOCK TABLE outbox"))
        return await failure_of(_run(database, "SET LOCAL lock_timeout = '10ms'", "SELECT * FROM outbox"))


async def statement_timeout(database: AsyncEngine, server: PostgreSQLServer) -> Exception:
    del server
    return await failure_of(_run(database, "SET LOCAL statement_timeout = '10ms'", "SELECT pg_sleep(60)"))


async def _during_statement(database: AsyncEngine, server: PostgreSQLServer, function: str) -> Exception:
    """Call a function of the server on the backend of a statement in progress, and return the error of the statement."""
    async with database.connect() as connection, server.superuser() as superuser:
        pid = await _pid(connection)
        sleeping = asyncio.create_task(failure_of(connection.execute(text("SELECT pg_sleep(60)"))))
        await _wait_until_asleep(superuser, pid)
        await superuser.execute(f"SELECT {function}({pid})")
        return await sleeping


async def _wait_until_asleep(superuser: "asyncpg.Connection[asyncpg.Record]", pid: int) -> None:
    """Wait until a backend runs `pg_sleep`."""

    async def is_asleep() -> bool:
        asleep = "SELECT true FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'"
        return bool(await superuser.fetchval(asleep, pid))

    await wait_until(is_asleep, "the statement is in progress")


async def statement_cancelled(database: AsyncEngine, server: PostgreSQLServer) -> Exception:
    return await _during_statement(database, server, "pg_cancel_backend")


async def backend_terminated(database: AsyncEngine, server: PostgreSQLServer) -> Exception:
    return await _during_statement(database, server, "pg_terminate_backend")


async def _between_statements(
    database: AsyncEngine, server: PostgreSQLServer, *, first: str, function: str
) -> Exception:
    """Return the error of a statement in a transaction whose backend has ended since the first statement."""
    async with database.connect() as connection, server.superuser() as superuser:
        pid = await _pid(connection)
        await connection.execute(text(first))
        await superuser.execute(f"SELECT {function}({pid})")

        async def has_ended() -> bool:
            return not await superuser.fetchval("SELECT true FROM pg_stat_activity WHERE pid = $1", pid)

        await wait_until(has_ended, "the backend has ended")
        return await failure_of(connection.execute(text("SELECT 1")))


async def idle_timeout(database: AsyncEngine, server: PostgreSQLServer) -> Exception:
    first = "SET idle_in_transaction_session_timeout = '10ms'"
    without_effect = "pg_blocking_pids"
    return await _between_statements(database, server, first=first, function=without_effect)


async def backend_terminated_between_statements(database: AsyncEngine, server: PostgreSQLServer) -> Exception:
    return await _between_statements(database, server, first="SELECT 1", function="pg_terminate_backend")


async def read_only(database: AsyncEngine, server: PostgreSQLServer) -> Exception:
    """A replica is read-only until it is promoted."""
    del server
    return await failure_of(_run(database, "SET TRANSACTION READ ONLY", "DELETE FROM outbox"))


async def outdated_statement(database: AsyncEngine, server: PostgreSQLServer) -> Exception:
    """A migration has changed a column since the statement was prepared."""
    del server
    await _run(database, "CREATE TABLE names (it text)", "SELECT * FROM names")
    async with database.connect() as connection, database.connect() as migration:
        await connection.execute(text("SELECT * FROM names"))
        await connection.commit()
        await migration.execute(text("ALTER TABLE names ALTER it TYPE varchar(9)"))
        await migration.commit()
        return await failure_of(connection.execute(text("SELECT * FROM names")))


async def too_many_connections(database: AsyncEngine, server: PostgreSQLServer) -> Exception:
    """The database has as many connections as its limit."""
    limit = f"ALTER DATABASE {database.url.database} CONNECTION LIMIT"
    async with database.connect() as connection, server.superuser() as superuser:
        await connection.execute(text("SELECT 1"))
        await superuser.execute(f"{limit} 1")
        try:
            return await failure_of(_run(database, "SELECT 1"))
        finally:
            await superuser.execute(f"{limit} -1")


async def server_killed_during_statement(database: AsyncEngine, server: PostgreSQLServer) -> Exception:
    """The server crashes during a statement."""
    async with database.connect() as connection:
        pid = await _pid(connection)
        sleeping = asyncio.create_task(failure_of(connection.execute(text("SELECT pg_sleep(60)"))))
        async with server.superuser() as superuser:
            await _wait_until_asleep(superuser, pid)
        async with server.killed():
            return await sleeping


async def server_killed_between_statements(database: AsyncEngine, server: PostgreSQLServer) -> Exception:
    """The server crashes, and the pool has not noticed yet."""
    async with server.killed():
        return await failure_of(_run(database, "SELECT 1"))


async def connection_refused(database: AsyncEngine, server: PostgreSQLServer) -> Exception:
    async with server.killed():
        await database.dispose()
        return await failure_of(_run(database, "SELECT 1"))


Cause = Callable[[AsyncEngine, PostgreSQLServer], Awaitable[Exception]]
TRANSIENT: dict[Cause, type[Exception]] = {  # with the class of the driver's error
    backend_terminated: asyncpg.ConnectionDoesNotExistError,
    connection_refused: ConnectionRefusedError,
    deadlock: asyncpg.DeadlockDetectedError,
    lock_timeout: asyncpg.LockNotAvailableError,
    outdated_statement: asyncpg.InvalidCachedStatementError,
    read_only: asyncpg.ReadOnlySQLTransactionError,
    serialization_failure: asyncpg.SerializationError,
    server_killed_between_statements: asyncpg.ConnectionDoesNotExistError,
    server_killed_during_statement: asyncpg.ConnectionDoesNotExistError,
    statement_cancelled: asyncpg.QueryCanceledError,
    statement_timeout: asyncpg.QueryCanceledError,
    too_many_connections: asyncpg.TooManyConnectionsError,
}


@pytest.mark.parametrize(("cause", "kind"), TRANSIENT.items(), ids=lambda it: it.__name__)
async def test_transient_error(
    database: AsyncEngine, postgresql_server: PostgreSQLServer, cause: Cause, kind: type[Exception]
) -> None:
    """The error of the driver has the expected class, and is transient."""
    error = await cause(database, postgresql_server)

    assert type(_driver_error(error)) is kind
    assert is_transient(error), repr(error)
    assert is_unavailable(error)


@pytest.mark.parametrize(
    "cause", [idle_timeout, backend_terminated_between_statements], ids=lambda cause: cause.__name__
)
async def test_backend_ended_between_statements(
    database: AsyncEngine, postgresql_server: PostgreSQLServer, cause: Cause
) -> None:
    """The error is transient. Its class depends on how much of the server's last message has arrived."""
    error = await cause(database, postgresql_server)

    assert is_transient(error), repr(error)
    assert is_unavailable(error)


def _driver_error(error: Exception) -> BaseException | None:
    return error.orig.__cause__ if isinstance(error, DBAPIError) and error.orig is not None else error


class TestClientTimeouts:
    """Timeouts of the gateway, not of the server."""

    @pytest.fixture(autouse=True)
    def short_timeout(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gateway.resources.database.COMMAND_TIMEOUT", 0.5)
        monkeypatch.setattr("gateway.resources.database.POOL_SIZE", 1)
        monkeypatch.setattr("gateway.resources.database.MAX_OVERFLOW", 1)

    async def test_slow_statement(self, database: AsyncEngine) -> None:
        """A statement that exceeds the command timeout raises a transient TimeoutError."""
        error = await failure_of(_run(database, "SELECT pg_sleep(60)"))

        assert isinstance(error, TimeoutError)
        assert is_transient(error)

    async def test_exhausted_pool(self, database: AsyncEngine) -> None:
        """A statement that gets no connection within the pool timeout raises a transient error."""
        async with database.connect(), database.connect():
            error = await failure_of(_run(database, "SELECT 1"))

        assert isinstance(error, PoolTimeoutError)
        assert is_transient(error)
        assert is_reachable(error)


@pytest.mark.parametrize(
    "kind",
    [
        asyncpg.AdminShutdownError,
        asyncpg.CannotConnectNowError,
        asyncpg.ConnectionFailureError,
        asyncpg.CrashShutdownError,
        asyncpg.DiskFullError,
        asyncpg.IdleInTransactionSessionTimeoutError,
        asyncpg.InternalClientError,
        asyncpg.OutOfMemoryError,
        ConnectionResetError,
        TimeoutError,
        gaierror,
    ],
)
def test_transient_class(kind: type[Exception]) -> None:
    """These errors are transient, too. Tests cannot make a server raise them."""
    assert is_transient(kind("message"))


def test_error_with_emulated_class() -> None:
    """SQLAlchemy's copy of a driver error is transient if the original is.

    The pool raises it if a raw connection is lost during its setup.
    """
    lost = asyncpg.ConnectionDoesNotExistError("message")

    with pytest.raises(EmulatedDBAPIException) as caught:
        raise dialect.import_dbapi().Error("message", lost) from lost  # type: ignore[no-untyped-call]

    assert is_transient(caught.value)


PERMANENT = {
    "syntax error": (("SELECT FROM WHERE",), asyncpg.PostgresSyntaxError),
    "duplicate key": ((_INSERT_CONSUMED_EVENT, _INSERT_CONSUMED_EVENT), asyncpg.UniqueViolationError),
    "unknown place": ((_INSERT_FOR_UNKNOWN_PLACE,), asyncpg.ForeignKeyViolationError),
    "division by zero": (("SELECT 1 / 0",), asyncpg.DivisionByZeroError),
}


# Either an operator has to change something, or a migration has not ended yet.
OPERATOR_NEEDED = {
    "no permission": ("SELECT * FROM pg_authid", asyncpg.InsufficientPrivilegeError, "lacks a right"),
    "unknown table": ("SELECT * FROM nowhere", asyncpg.UndefinedTableError, "schema"),
    "unknown column": ("SELECT nothing FROM places", asyncpg.UndefinedColumnError, "schema"),
}


@pytest.mark.parametrize(("statement", "kind", "reason"), OPERATOR_NEEDED.values(), ids=OPERATOR_NEEDED)
async def test_operator_is_needed(database: AsyncEngine, statement: str, kind: type[Exception], reason: str) -> None:
    """A missing right or table fails a startup. Callers that already run get the reason, and try again later."""
    error = await failure_of(_run(database, statement))

    assert type(_driver_error(error)) is kind
    assert not is_transient(error)
    assert is_unavailable(error)
    assert is_reachable(error)
    assert reason in explain(error)


@pytest.mark.parametrize(("statements", "kind"), PERMANENT.values(), ids=PERMANENT)
async def test_permanent_error(database: AsyncEngine, statements: tuple[str, ...], kind: type[Exception]) -> None:
    """A bug in a statement is neither transient nor a sign of an unavailable database."""
    error = await failure_of(_run(database, *statements))

    assert type(_driver_error(error)) is kind
    assert not is_transient(error)
    assert not is_unavailable(error)
    assert is_retryable(error), "background tasks retry whatever the server reports"


DATA_ERRORS = {
    "out of range": "SELECT 2147483647 + 1",
    "constraint": _INSERT_FOR_UNKNOWN_PLACE,
    "trigger": "DO $$ BEGIN RAISE EXCEPTION 'not now'; END $$",
}
OTHER_ERRORS = {
    "syntax error": "SELECT FROM WHERE",
    "no permission": "SELECT * FROM pg_authid",
    "unknown table": "SELECT * FROM nowhere",
    "connection ended": "SELECT pg_terminate_backend(pg_backend_pid())",
}


@pytest.mark.parametrize("statement", DATA_ERRORS.values(), ids=DATA_ERRORS)
async def test_data_error(database: AsyncEngine, statement: str) -> None:
    """A value out of range, a constraint and the exception of a trigger depend on the data of the statement."""
    assert is_data_error(await failure_of(_run(database, statement)))


@pytest.mark.parametrize("statement", OTHER_ERRORS.values(), ids=OTHER_ERRORS)
async def test_no_data_error(database: AsyncEngine, statement: str) -> None:
    """An error that all statements get does not depend on their data."""
    assert not is_data_error(await failure_of(_run(database, statement)))


async def test_refused_connection_is_no_data_error(url: str) -> None:
    """A connection that is refused with a data error, such as for an invalid option, depends on no data."""
    error = await failure_of(
        asyncpg.connect(url.replace("+asyncpg", ""), server_settings={"statement_timeout": "soon"})
    )

    assert isinstance(error, asyncpg.DataError)
    assert not is_data_error(error)


async def test_unencodable_parameter(database: AsyncEngine) -> None:
    """A parameter that asyncpg cannot encode is a bug."""
    async with database.connect() as connection:
        error = await failure_of(connection.execute(text("SELECT cast(:it AS integer)"), {"it": "not a number"}))

    assert type(_driver_error(error)) is asyncpg.DataError
    assert not is_unavailable(error)
    assert not is_retryable(error)


async def test_dropped_database(database: AsyncEngine, postgresql_server: PostgreSQLServer) -> None:
    """A missing database fails a startup. Callers that already run retry until an operator has fixed it."""
    name = database.url.database
    await database.dispose()
    async with postgresql_server.superuser() as superuser:
        await superuser.execute(f"ALTER DATABASE {name} RENAME TO {name}_renamed")
        error = await failure_of(_run(database, "SELECT 1"))
        await superuser.execute(f"ALTER DATABASE {name}_renamed RENAME TO {name}")

    assert isinstance(error, PermanentError)
    assert not is_transient(error)
    assert is_unavailable(error)


def test_no_error() -> None:
    """None is neither transient nor a sign of an unavailable database."""
    assert not is_transient(None)
    assert not is_unavailable(None)
