"""The database engine."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from weakref import WeakSet

import asyncpg
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.resources.base import DegradedError, PermanentError, Resource, retry_transient
from gateway.resources.database_errors import is_transient
from gateway.resources.pooled_connection import (
    ConnectionRenewal,
    PooledConnection,
    discard_unusable,
    retry_outdated,
)
from gateway.schema.connect import ConnectError, Connector
from gateway.schema.revision import current_revision, describe_mismatch
from gateway.schema.rights import describe_missing_rights
from gateway.settings import DatabaseSettings

# The connections of a gateway process, by their use. Each use keeps its own limit, and the pool has a connection for all of
# them. So a lock that blocks all writes takes no connection from reads, briefs and health checks. (The worker uses fewer:
# one for each message in progress, and one each for the cleanup and the check.)
MAX_WRITES = 4  # `ObservationWriter`, one for each group
MAX_READS = 7  # `ReadSessions`
MAX_PINNED = 4  # `PinnedConnections` of the briefs
RELAY_CONNECTIONS = 1
CHECK_CONNECTIONS = 4  # of the database and of the relay: one each, and one each that is closing after its timeout
MAX_CONNECTIONS = MAX_WRITES + MAX_READS + MAX_PINNED + RELAY_CONNECTIONS + CHECK_CONNECTIONS

POOL_SIZE = 10  # connections that stay open
MAX_OVERFLOW = MAX_CONNECTIONS - POOL_SIZE  # more connections under load

CONNECT_TIMEOUT = 5.0
COMMAND_TIMEOUT = 5.0  # for one statement; SQLAlchemy shields the close of a session, so only this limits it

_SESSION_PARAMETERS = {
    # Every statement uses an index whatever its parameters. Without this PostgreSQL re-plans statements with short id
    # lists, which costs more than running them.
    "plan_cache_mode": "force_generic_plan",
    # The data is mostly in memory. With the default, PostgreSQL reads and sorts all observations of a place to find the
    # latest few, which is slow for a place with many.
    "random_page_cost": "1.1",
    "timezone": "UTC",  # of the times in the JSON that PostgreSQL makes
}

_READ_ONLY = text("SELECT current_setting('transaction_read_only')::boolean, pg_is_in_recovery()")


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
        self._renewal = ConnectionRenewal()
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
        event.listen(engine.sync_engine, "checkout", discard_unusable)
        event.listen(engine.sync_engine, "handle_error", self._renewal.on_error)
        event.listen(engine.sync_engine, "do_execute", retry_outdated)
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
            connection: PooledConnection = await connector.connect(
                connect_timeout=CONNECT_TIMEOUT,
                command_timeout=COMMAND_TIMEOUT,
                connection_class=PooledConnection,
            )
        except ConnectError as error:
            raise self._permanent(error) from error
        connection.renewal = self._renewal
        self._connections.add(connection)
        if self._engine is None:  # the engine was closed during the connect
            connection.terminate()
        return connection

    def _permanent(self, error: ConnectError) -> PermanentError:
        return PermanentError(f"{self.settings.variable(error.field)}: {error}")

    async def _verify(self) -> None:
        """Compare the revision of the schema, and check the rights of the user."""
        async with self._autocommit_engine().connect() as connection:
            problem = describe_mismatch(await current_revision(connection)) or await describe_missing_rights(connection)
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
        """Check that the server accepts writes.

        Raises:
            DegradedError: it is read-only. All connections are replaced, because the address may lead to another server now.
        """
        async with self._autocommit_engine().connect() as connection:
            is_read_only, is_standby = (await connection.execute(_READ_ONLY)).one()
        if is_read_only:
            self._renewal.renew()
            reason = "the server is a standby" if is_standby else "default_transaction_read_only is on"
            raise DegradedError(f"read-only: {reason} at {self.settings.location}")
        return self.settings.location
