"""The database engine."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from weakref import WeakSet

import asyncpg
from sqlalchemy import event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, DisconnectionError, EmulatedDBAPIException
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from gateway.resources.base import PermanentError, Resource, retry_transient
from gateway.schema.revision import current_revision, describe_mismatch
from gateway.schema.transaction import DEFAULT_SSL_MODE
from gateway.settings import DatabaseSettings, address

POOL_SIZE = 10
"""Connections kept open; as many again come and go under load."""

CONNECT_TIMEOUT = 5.0
COMMAND_TIMEOUT = 5.0
"""Seconds for one statement. SQLAlchemy returns a session's connection behind a shield: with a server that has stopped, this is
all that ends the wait."""

CLOSE_WITHIN = 0.25
"""Seconds for the server to hang up, on a connection that is given up."""

_SESSION = {
    # All of our statements look rows up by an index, whatever they are given. PostgreSQL would plan those anew that are given but
    # a few ids, which takes longer than to run them.
    "plan_cache_mode": "force_generic_plan",
    # What is asked for is mostly in memory. Else the few latest observations of a place would be found by sorting all of it, and
    # those of a place that has many more than most have would take long.
    "random_page_cost": "1.1",
    "timezone": "UTC",  # of the times in the JSON that it makes
}
"""What each connection sets for itself."""

_TRANSIENT = (
    OSError,  # refused, unreachable, no such name yet; TimeoutError is one, too
    asyncpg.PostgresConnectionError,  # it closed the connection in the middle
    asyncpg.OperatorInterventionError,  # it is starting up, or shutting down; somebody ended what we asked
    asyncpg.InsufficientResourcesError,  # too many connections, no memory, no space
    asyncpg.TransactionRollbackError,  # a deadlock
    asyncpg.LockNotAvailableError,  # the server's lock_timeout
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.ReadOnlySQLTransactionError,  # it is a replica, until it is promoted
    asyncpg.InternalClientError,  # we began to ask in the very moment of its last words
)


def is_transient(error: BaseException | None) -> bool:
    """Whether it may pass by itself: the server is away, or too slow. SQLAlchemy wraps some of the driver's errors only."""
    if isinstance(error, PoolTimeoutError):
        return True
    if isinstance(error, DBAPIError) and error.orig is not None:
        if error.connection_invalidated:
            return True
        error = error.orig
    if isinstance(error, EmulatedDBAPIException):  # the driver's, as SQLAlchemy dresses it
        error = error.__cause__ or error
    return isinstance(error, _TRANSIENT)


def is_unavailable(error: BaseException | None) -> bool:
    """Whether who uses the database should try again later: it may pass by itself, or a person is about to mend it."""
    return isinstance(error, PermanentError) or is_transient(error)


class _Connection(asyncpg.Connection):
    """A connection whose goodbye is short, where SQLAlchemy gives it a time.

    That is when somebody is cancelled who uses it. Behind a shield it gives two seconds, all of which pass if the server has
    stopped: for as long, nobody gets away, and the place in the pool is taken.
    """

    async def close(self, *, timeout: float | None = None) -> None:
        await super().close(timeout=None if timeout is None else min(timeout, CLOSE_WITHIN))


def _refuse_closed(adapted: DBAPIConnection, record: ConnectionPoolEntry, *_: object) -> None:
    """Hand out no connection again that the server has closed: a restart of it costs no request.

    The driver sees that by itself. `pool_pre_ping` would ask the server each time, for three round trips; and whoever is cancelled
    while it asks one that has stopped, waits for as long as a statement may take. One that is new is not looked at: the pool tries
    twice only, and what it raises then looks like a mistake.

    Raises:
        DisconnectionError: it is closed; the pool connects anew.
    """
    if "used" in record.info and adapted.driver_connection.is_closed():  # SQLAlchemy wraps the driver's connection
        raise DisconnectionError
    record.info["used"] = True


class DatabaseEngine(Resource[AsyncEngine]):
    """Owns SQLAlchemy's engine, and remembers the raw connections under it.

    `dispose()` leaves those that are checked out, and when it is cancelled the rest as well: `abort()` terminates them.
    """

    name = "database"

    def __init__(self, settings: DatabaseSettings, instance: str) -> None:
        super().__init__(settings)
        self.settings = settings
        self._instance = instance
        self._raw: WeakSet[asyncpg.Connection] = WeakSet()
        self._engine: AsyncEngine | None = None

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[AsyncEngine]:
        engine = self._engine = create_async_engine(
            self.settings.url.get_secret_value(),
            async_creator=self._connect,
            pool_size=POOL_SIZE,
            max_overflow=POOL_SIZE,
            pool_timeout=COMMAND_TIMEOUT,
            hide_parameters=True,
        )
        event.listen(engine.sync_engine, "checkout", _refuse_closed)
        try:
            await retry_transient(self._verify, is_transient=is_transient)
            yield engine
        finally:
            # From now on nobody connects any more: a disposed engine would, and nobody would close it.
            self._engine = None
            try:
                await engine.dispose()
            finally:
                self.abort()

    async def _connect(self) -> asyncpg.Connection:
        """Make a raw connection, as the pool asks for it.

        Raises:
            PermanentError: the server does not know us, or the database.
        """
        _, options = self._opened.dialect.create_connect_args(self._opened.url)
        try:
            ours = {
                "timeout": CONNECT_TIMEOUT,
                "command_timeout": COMMAND_TIMEOUT,
                "server_settings": {"application_name": self._instance, **_SESSION},
            }
            connection: asyncpg.Connection = await asyncpg.connect(
                **{"ssl": DEFAULT_SSL_MODE, **options, **ours}, connection_class=_Connection
            )
        except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidPasswordError) as error:
            raise PermanentError(
                f"GATEWAY_DATABASE__URL: the server at {address(self.settings.url)} refuses this user or password: "
                "correct them in the URL"
            ) from error
        except TypeError as error:
            raise PermanentError(
                f"GATEWAY_DATABASE__URL: it has an option that asyncpg does not know: {error}"
            ) from error
        except asyncpg.InvalidCatalogNameError as error:
            raise PermanentError(
                f"GATEWAY_DATABASE__URL: the server at {address(self.settings.url)} has no such database: "
                "create it, or correct the name in the URL"
            ) from error
        self._raw.add(connection)
        if self._engine is None:  # it was closed while this connected
            connection.terminate()
        return connection

    async def _verify(self) -> None:
        """Ask for `SELECT 1` and for the revision of the schema."""
        async with self._autocommitting().connect() as connection:
            await connection.execute(text("SELECT 1"))
            complaint = describe_mismatch(await current_revision(connection))
        if complaint is not None:
            raise PermanentError(f"GATEWAY_DATABASE__URL: {complaint}")

    @property
    def _opened(self) -> AsyncEngine:
        if self._engine is None:
            raise RuntimeError("the database engine is not open")
        return self._engine

    def _autocommitting(self) -> AsyncEngine:
        return self._opened.execution_options(isolation_level="AUTOCOMMIT")

    def abort(self) -> None:
        for connection in tuple(self._raw):
            if not connection.is_closed():
                connection.terminate()

    async def check(self) -> str | None:
        """Ask for `SELECT 1`."""
        async with self._autocommitting().connect() as connection:
            await connection.execute(text("SELECT 1"))
        return address(self.settings.url)
