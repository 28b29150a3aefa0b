"""The database engine."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from weakref import WeakSet

import asyncpg
from sqlalchemy import event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, DisconnectionError, EmulatedDBAPIException
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry

from gateway.network.errors import is_network_error
from gateway.resources.base import PermanentError, Resource, retry_transient
from gateway.schema.connect import ConnectError, Connector
from gateway.schema.revision import current_revision, describe_mismatch
from gateway.settings import DatabaseSettings

POOL_SIZE = 10  # connections that stay open
MAX_OVERFLOW = 14  # more connections under load: `POOL_SIZE` again, and four that the briefs pin

CONNECT_TIMEOUT = 5.0
COMMAND_TIMEOUT = 5.0  # for one statement; SQLAlchemy shields the close of a session, so only this limits it
CLOSE_TIMEOUT = 0.25  # for a connection that is discarded because its task was cancelled

_SESSION_PARAMETERS = {
    # Every statement uses an index whatever its parameters. Without this PostgreSQL re-plans statements with short id
    # lists, which costs more than running them.
    "plan_cache_mode": "force_generic_plan",
    # The data is mostly in memory. With the default, PostgreSQL reads and sorts all observations of a place to find the
    # latest few, which is slow for a place with many.
    "random_page_cost": "1.1",
    "timezone": "UTC",  # of the times in the JSON that PostgreSQL makes
}

_TRANSIENT_ERRORS = (
    asyncpg.PostgresConnectionError,  # the connection was lost
    asyncpg.OperatorInterventionError,  # the server is starting up or shutting down, or the statement was cancelled
    asyncpg.InsufficientResourcesError,  # too many connections, no memory, no space
    asyncpg.TransactionRollbackError,  # a deadlock or a serialization failure
    asyncpg.LockNotAvailableError,  # the server's lock_timeout
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.ReadOnlySQLTransactionError,  # a replica that is not promoted yet
    asyncpg.InternalClientError,  # a statement was sent at the moment at which the server closed the connection
)


def is_transient(error: BaseException | None) -> bool:
    """Return whether the error may go away without a change: the database is unavailable or too slow.

    SQLAlchemy wraps only some of the driver's errors, so wrapped and bare ones are recognised.
    """
    if isinstance(error, PoolTimeoutError):
        return True
    if isinstance(error, DBAPIError) and error.orig is not None:
        if error.connection_invalidated:
            return True
        error = error.orig
    if isinstance(error, EmulatedDBAPIException):  # SQLAlchemy's copy of the driver's error
        error = error.__cause__ or error
    return isinstance(error, _TRANSIENT_ERRORS) or (error is not None and is_network_error(error))


def is_unavailable(error: BaseException | None) -> bool:
    """Return whether the caller should try again later: the error is transient, or an operator has to fix the database."""
    return isinstance(error, PermanentError) or is_transient(error)


class DatabaseEngine(Resource[AsyncEngine]):
    """Owns SQLAlchemy's engine, and tracks the asyncpg connections that it opens.

    `dispose()` does not close the connections that are checked out, and a cancelled `dispose()` closes no more
    connections at all. `abort()` terminates those that are left.
    """

    name = "database"

    def __init__(self, settings: DatabaseSettings, instance: str) -> None:
        super().__init__(settings)
        self.settings = settings
        self._instance = instance
        self._connections: WeakSet[asyncpg.Connection] = WeakSet()
        self._engine: AsyncEngine | None = None

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[AsyncEngine]:
        connector = self._create_connector()
        engine = self._engine = connector.create_engine(
            partial(self._connect, connector),
            pool_size=POOL_SIZE,
            max_overflow=MAX_OVERFLOW,
            pool_timeout=COMMAND_TIMEOUT,
        )
        event.listen(engine.sync_engine, "checkout", _discard_closed_connection)
        try:
            await retry_transient(self._verify, is_transient=is_transient)
            yield engine
        finally:
            # A disposed engine can still open connections, which nothing would close. `_connect` now raises instead.
            self._engine = None
            try:
                await engine.dispose()
            finally:
                self.abort()

    def _create_connector(self) -> Connector:
        """Read the URL and the files for TLS.

        Raises:
            PermanentError: a file cannot be used.
        """
        try:
            return Connector(
                self.settings.complete_url.get_secret_value(),
                application_name=self._instance,
                session_parameters=_SESSION_PARAMETERS,
            )
        except ConnectError as error:
            raise self._permanent(error) from error

    async def _connect(self, connector: Connector) -> asyncpg.Connection:
        """Open a connection for the pool.

        Raises:
            PermanentError: an operator has to change a setting or the server.
        """
        self._require_engine()
        try:
            connection = await connector.connect(
                connect_timeout=CONNECT_TIMEOUT,
                command_timeout=COMMAND_TIMEOUT,
                connection_class=_QuickCloseConnection,
            )
        except ConnectError as error:
            raise self._permanent(error) from error
        self._connections.add(connection)
        if self._engine is None:  # the engine was closed during the connect
            connection.terminate()
        return connection

    def _permanent(self, error: ConnectError) -> PermanentError:
        return PermanentError(f"{self.settings.variable(error.field)}: {error}")

    async def _verify(self) -> None:
        """Run `SELECT 1`, and compare the revision of the schema."""
        async with self._autocommit_engine().connect() as connection:
            await connection.execute(text("SELECT 1"))
            problem = describe_mismatch(await current_revision(connection))
        if problem is not None:
            raise PermanentError(f"GATEWAY_DATABASE__URL: {problem}")

    def _require_engine(self) -> AsyncEngine:
        if self._engine is None:
            raise RuntimeError("the database engine is not open")
        return self._engine

    def _autocommit_engine(self) -> AsyncEngine:
        return self._require_engine().execution_options(isolation_level="AUTOCOMMIT")

    def abort(self) -> None:
        for connection in tuple(self._connections):
            if not connection.is_closed():
                connection.terminate()

    async def check(self) -> str | None:
        """Run `SELECT 1`."""
        async with self._autocommit_engine().connect() as connection:
            await connection.execute(text("SELECT 1"))
        return self.settings.location


class _QuickCloseConnection(asyncpg.Connection):
    """Caps the close timeout that SQLAlchemy passes when a task is cancelled.

    SQLAlchemy passes two seconds and shields the close. If the server has stopped responding, the cancelled task would
    wait for all of them, with its place in the pool.
    """

    async def close(self, *, timeout: float | None = None) -> None:
        await super().close(timeout=None if timeout is None else min(timeout, CLOSE_TIMEOUT))


def _discard_closed_connection(adapted: DBAPIConnection, record: ConnectionPoolEntry, *_: object) -> None:
    """Discard a pooled connection that the server has closed, so that no request fails after a restart of the server.

    asyncpg notices the close without a query. `pool_pre_ping` would cost three round trips for each checkout, and a
    timeout would not end it. New connections are not tested: the pool tries only twice, and then raises an error that
    looks like a bug.

    Raises:
        DisconnectionError: it is closed. The pool opens a new one.
    """
    if "used" in record.info and adapted.driver_connection.is_closed():
        raise DisconnectionError
    record.info["used"] = True
