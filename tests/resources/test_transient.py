"""What of the database passes by itself, and what does not: each kind as a real server, and the driver, say it."""

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
from gateway.resources.database import DatabaseEngine, is_transient, is_unavailable
from gateway.schema.migrate import migrate
from gateway.settings import DatabaseSettings
from tests.support.waiting import TIMEOUT, wait_until

_REMEMBERED = "INSERT INTO consumed_events (event_id) VALUES ('00000000-0000-0000-0000-000000000001')"
_OF_NO_PLACE = "INSERT INTO observations (place_id, temperature_c, condition) VALUES (1, 0, 'fog')"


@pytest.fixture(scope="module")
async def url(postgresql_server: PostgreSQLServer) -> AsyncIterator[str]:
    """The URL of a migrated database of these tests' own."""
    name = f"transient_{secrets.token_hex(4)}"
    url = await postgresql_server.create_database(name)
    await migrate(url)
    yield url
    await postgresql_server.drop_database(name)


@pytest.fixture
async def database(url: str) -> AsyncIterator[AsyncEngine]:
    """The engine as the gateway has it."""
    async with DatabaseEngine(DatabaseSettings.model_validate({"url": url}), "test").open() as engine:
        yield engine


async def failure(doing: Awaitable[object]) -> Exception:
    """What comes of it, as whoever uses the engine gets it."""
    async with asyncio.timeout(TIMEOUT):
        try:
            await doing
        except Exception as error:  # noqa: BLE001 - whatever it is
            return error
    pytest.fail("it has not failed")


async def _run(database: AsyncEngine, *statements: str) -> None:
    """In one transaction."""
    async with database.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


async def _pid(connection: AsyncConnection) -> int:
    return int(await connection.scalar(text("SELECT pg_backend_pid()")) or 0)


async def deadlock(database: AsyncEngine, server: PostgreSQLServer) -> Exception:
    """Two wait for each other; the server lets one of them fail."""
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


async def not_serializable(database: AsyncEngine, server: PostgreSQLServer) -> Exception:
    """Another one has changed what this one has seen."""
    del server
    await _run(database, "CREATE TABLE numbers (it integer)", "INSERT INTO numbers VALUES (1)")
    async with database.execution_options(isolation_level="REPEATABLE READ").connect() as connection:
        await connection.execute(text("SELECT * FROM numbers"))
        await _run(database, "UPDATE numbers SET it = 2")
        return await failure(connection.execute(text("UPDATE numbers SET it = 3")))


async def lock_not_had(database: AsyncEngine, server: PostgreSQLServer) -> Exception:
    """Somebody has locked it, and the server's `lock_timeout` is short."""
    del server
    async with database.begin() as connection:
        await connection.execute(text("LOCK TABLE outbox"))
        return await failure(_run(database, "SET LOCAL lock_timeout = '10ms'", "SELECT * FROM outbox"))


async def too_slow_for_the_server(database: AsyncEngine, server: PostgreSQLServer) -> Exception:
    del server
    return await failure(_run(database, "SET LOCAL statement_timeout = '10ms'", "SELECT pg_sleep(60)"))


async def _while_it_sleeps(database: AsyncEngine, server: PostgreSQLServer, function: str) -> Exception:
    """What comes of a statement to whose backend somebody does that."""
    async with database.connect() as connection, server.superuser() as superuser:
        pid = await _pid(connection)
        sleeping = asyncio.create_task(failure(connection.execute(text("SELECT pg_sleep(60)"))))
        await _sleeps(superuser, pid)
        await superuser.execute(f"SELECT {function}({pid})")
        return await sleeping


async def _sleeps(superuser: "asyncpg.Connection[asyncpg.Record]", pid: int) -> None:
    """Wait until a backend runs `pg_sleep`."""

    async def is_asleep() -> bool:
        asleep = "SELECT true FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'"
        return bool(await superuser.fetchval(asleep, pid))

    await wait_until(is_asleep, "the statement is under way")


async def cancelled(database: AsyncEngine, server: PostgreSQLServer) -> Exception:
    return await _while_it_sleeps(database, server, "pg_cancel_backend")


async def terminated(database: AsyncEngine, server: PostgreSQLServer) -> Exception:
    return await _while_it_sleeps(database, server, "pg_terminate_backend")


async def _ended_in_between(database: AsyncEngine, server: PostgreSQLServer, *, first: str, function: str) -> Exception:
    """What comes of the next statement of a transaction whose backend has ended since the first."""
    async with database.connect() as connection, server.superuser() as superuser:
        pid = await _pid(connection)
        await connection.execute(text(first))
        await superuser.execute(f"SELECT {function}({pid})")

        async def has_ended() -> bool:
            return not await superuser.fetchval("SELECT true FROM pg_stat_activity WHERE pid = $1", pid)

        await wait_until(has_ended, "the backend has ended")
        return await failure(connection.execute(text("SELECT 1")))


async def idle_for_too_long(database: AsyncEngine, server: PostgreSQLServer) -> Exception:
    first = "SET idle_in_transaction_session_timeout = '10ms'"
    return await _ended_in_between(database, server, first=first, function="pg_blocking_pids")  # any that does nothing


async def terminated_in_between(database: AsyncEngine, server: PostgreSQLServer) -> Exception:
    return await _ended_in_between(database, server, first="SELECT 1", function="pg_terminate_backend")


async def read_only(database: AsyncEngine, server: PostgreSQLServer) -> Exception:
    """As a replica is, until it is promoted."""
    del server
    return await failure(_run(database, "SET TRANSACTION READ ONLY", "DELETE FROM outbox"))


async def full(database: AsyncEngine, server: PostgreSQLServer) -> Exception:
    """It has as many connections as it takes."""
    limit = f"ALTER DATABASE {database.url.database} CONNECTION LIMIT"
    async with database.connect() as connection, server.superuser() as superuser:
        await connection.execute(text("SELECT 1"))
        await superuser.execute(f"{limit} 1")
        try:
            return await failure(_run(database, "SELECT 1"))
        finally:
            await superuser.execute(f"{limit} -1")


async def killed_meanwhile(database: AsyncEngine, server: PostgreSQLServer) -> Exception:
    """The server, while it was asked."""
    async with database.connect() as connection:
        pid = await _pid(connection)
        sleeping = asyncio.create_task(failure(connection.execute(text("SELECT pg_sleep(60)"))))
        async with server.superuser() as superuser:
            await _sleeps(superuser, pid)
        async with server.killed():
            return await sleeping


async def killed_in_between(database: AsyncEngine, server: PostgreSQLServer) -> Exception:
    """The server, so suddenly that the pool does not know it yet."""
    async with server.killed():
        return await failure(_run(database, "SELECT 1"))


async def refused(database: AsyncEngine, server: PostgreSQLServer) -> Exception:
    async with server.killed():
        await database.dispose()
        return await failure(_run(database, "SELECT 1"))


Cause = Callable[[AsyncEngine, PostgreSQLServer], Awaitable[Exception]]
PASS: dict[Cause, type[Exception]] = {
    cancelled: asyncpg.QueryCanceledError,
    deadlock: asyncpg.DeadlockDetectedError,
    full: asyncpg.TooManyConnectionsError,
    killed_in_between: asyncpg.ConnectionDoesNotExistError,
    killed_meanwhile: asyncpg.ConnectionDoesNotExistError,
    lock_not_had: asyncpg.LockNotAvailableError,
    not_serializable: asyncpg.SerializationError,
    read_only: asyncpg.ReadOnlySQLTransactionError,
    refused: ConnectionRefusedError,
    terminated: asyncpg.ConnectionDoesNotExistError,
    too_slow_for_the_server: asyncpg.QueryCanceledError,
}
"""With what the driver says of it."""


@pytest.mark.parametrize(("cause", "kind"), PASS.items(), ids=lambda it: it.__name__)
async def test_it_passes_by_itself_when_it_is(
    database: AsyncEngine, postgresql_server: PostgreSQLServer, cause: Cause, kind: type[Exception]
) -> None:
    error = await cause(database, postgresql_server)

    assert type(_of_the_driver(error)) is kind
    assert is_transient(error), repr(error)
    assert is_unavailable(error)


@pytest.mark.parametrize("cause", [idle_for_too_long, terminated_in_between], ids=lambda it: it.__name__)
async def test_it_passes_by_itself_that_it_has_ended_between_two_statements(
    database: AsyncEngine, postgresql_server: PostgreSQLServer, cause: Cause
) -> None:
    """What the driver says of it depends on how far the server's last words have come."""
    error = await cause(database, postgresql_server)

    assert is_transient(error), repr(error)
    assert is_unavailable(error)


def _of_the_driver(error: Exception) -> BaseException | None:
    return error.orig.__cause__ if isinstance(error, DBAPIError) and error.orig is not None else error


class TestOurOwnPatience:
    """What we wait for, and not the server."""

    @pytest.fixture(autouse=True)
    def short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gateway.resources.database.COMMAND_TIMEOUT", 0.5)
        monkeypatch.setattr("gateway.resources.database.POOL_SIZE", 1)

    async def test_with_a_statement_ends_and_that_passes_by_itself(self, database: AsyncEngine) -> None:
        error = await failure(_run(database, "SELECT pg_sleep(60)"))

        assert isinstance(error, TimeoutError)
        assert is_transient(error)

    async def test_with_the_pool_ends_and_that_passes_by_itself(self, database: AsyncEngine) -> None:
        async with database.connect(), database.connect():
            error = await failure(_run(database, "SELECT 1"))

        assert isinstance(error, PoolTimeoutError)
        assert is_transient(error)


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
def test_it_passes_by_itself_what_no_test_can_have_a_server_say_at_will(kind: type[Exception]) -> None:
    assert is_transient(kind("said"))


def test_it_passes_by_itself_though_the_pool_lets_it_through_in_sqlalchemys_clothes() -> None:
    """So it comes out of a raw connection that is cut while it is being set up."""
    cut = asyncpg.ConnectionDoesNotExistError("said")
    with pytest.raises(EmulatedDBAPIException) as caught:
        raise dialect.import_dbapi().Error("said", cut) from cut  # type: ignore[no-untyped-call]
    assert is_transient(caught.value)


STAY = {
    "a syntax error": (("SELEC 1",), asyncpg.PostgresSyntaxError),
    "no such table": (("SELECT * FROM nowhere",), asyncpg.UndefinedTableError),
    "the same key twice": ((_REMEMBERED, _REMEMBERED), asyncpg.UniqueViolationError),
    "a place that there is not": ((_OF_NO_PLACE,), asyncpg.ForeignKeyViolationError),
    "not allowed": (("SELECT * FROM pg_authid",), asyncpg.InsufficientPrivilegeError),
    "no such number": (("SELECT 1 / 0",), asyncpg.DivisionByZeroError),
}


@pytest.mark.parametrize(("statements", "kind"), STAY.values(), ids=STAY)
async def test_it_stays_when_it_is(database: AsyncEngine, statements: tuple[str, ...], kind: type[Exception]) -> None:
    error = await failure(_run(database, *statements))

    assert type(_of_the_driver(error)) is kind
    assert not is_transient(error)
    assert not is_unavailable(error)


async def test_what_the_driver_cannot_encode_stays(database: AsyncEngine) -> None:
    async with database.connect() as connection:
        error = await failure(connection.execute(text("SELECT cast(:it AS integer)"), {"it": "no number"}))

    assert type(_of_the_driver(error)) is asyncpg.DataError
    assert not is_unavailable(error)


async def test_a_database_that_is_gone_waits_for_a_person(
    database: AsyncEngine, postgresql_server: PostgreSQLServer
) -> None:
    """It does not pass by itself; but who uses it tries again, until somebody has mended it."""
    name = database.url.database
    await database.dispose()
    async with postgresql_server.superuser() as superuser:
        await superuser.execute(f"ALTER DATABASE {name} RENAME TO {name}_away")
        error = await failure(_run(database, "SELECT 1"))
        await superuser.execute(f"ALTER DATABASE {name}_away RENAME TO {name}")

    assert isinstance(error, PermanentError)
    assert not is_transient(error)
    assert is_unavailable(error)


def test_nothing_is_no_trouble() -> None:
    assert not is_transient(None)
    assert not is_unavailable(None)
