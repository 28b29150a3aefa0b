"""The connections of the pool: when the pool replaces them, and how they are closed."""

import random
from time import monotonic
from typing import Any

import asyncpg
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor, ExceptionContext, ExecutionContext
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry

from gateway.resources.database_errors import driver_error, is_wrong_server

MAX_CONNECTION_AGE = 300.0  # for changes that cause no error, such as an address that now leads to another server
MIN_CONNECTION_AGE = 240.0  # the age at which a connection is replaced is random, so that not all are replaced together
RENEWAL_INTERVAL = 1.0  # at least; a database that stays read-only must not cost a new connection for each write
CLOSE_TIMEOUT = 0.25  # for a connection that is discarded because its task was cancelled


class ConnectionRenewal:
    """The time of the latest renewal. A connection that was opened before it is replaced at its next use.

    After a switchover, open connections still lead to the old server. New ones are opened by the address.
    """

    def __init__(self) -> None:
        self.renewed_at = float("-inf")

    def renew(self) -> None:
        """Replace all connections, unless a renewal has just begun."""
        now = monotonic()
        if now - self.renewed_at >= RENEWAL_INTERVAL:
            self.renewed_at = now

    def observe(self, error: BaseException) -> None:
        """Replace all connections if the error of one of them means that it leads to the wrong server."""
        if is_wrong_server(error):
            self.renew()

    def on_error(self, context: ExceptionContext) -> None:
        """Observe an error of SQLAlchemy: a listener for `handle_error`."""
        self.observe(context.original_exception)


class PooledConnection(asyncpg.Connection):
    """A connection that is replaced after a renewal and at its maximum age, and that never takes long to close.

    Attributes:
        renewal: set when the connection was opened; shared by all connections of an engine.
    """

    renewal: ConnectionRenewal

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._opened_at = monotonic()
        self._expires_at = self._opened_at + random.uniform(MIN_CONNECTION_AGE, MAX_CONNECTION_AGE)  # noqa: S311 - no secret

    @property
    def is_usable(self) -> bool:
        """True if a new statement may use it. asyncpg notices without a query that the server has closed it."""
        return self.renewal.renewed_at < self._opened_at and monotonic() < self._expires_at and not self.is_closed()

    async def close(self, *, timeout: float | None = None) -> None:
        """Close it, with a cap on the timeout that SQLAlchemy passes when a task is cancelled.

        SQLAlchemy passes two seconds and shields the close. If the server has stopped responding, the cancelled task would
        wait for all of them, with its place in the pool.
        """
        await super().close(timeout=None if timeout is None else min(timeout, CLOSE_TIMEOUT))


def discard_unusable(adapted: DBAPIConnection, record: ConnectionPoolEntry, *_: object) -> None:
    """Discard a pooled connection that is not usable: a listener for `checkout`. So no request fails after a restart.

    `pool_pre_ping` would cost three round trips for each checkout, and a timeout would not end it. New connections are not
    tested: the pool tries only twice, and then raises an error that looks like a bug.

    Raises:
        DisconnectionError: it is not usable. The pool opens a new one.
    """
    if "used" in record.info and not adapted.driver_connection.is_usable:
        raise DisconnectionError
    record.info["used"] = True


def retry_outdated(cursor: DBAPICursor, statement: str, parameters: Any, context: ExecutionContext) -> bool:
    """Run a statement, and prepare it again if a table has changed since: a listener for `do_execute`.

    PostgreSQL rejects a prepared statement whose result would have other types than before. asyncpg retries its own
    statements, but SQLAlchemy does not retry. In a transaction the whole transaction has to be retried, by the caller.
    """
    try:
        cursor.execute(statement, parameters)
    except Exception as error:
        connection: Any = context.root_connection.connection.driver_connection
        is_outdated = isinstance(driver_error(error), asyncpg.InvalidCachedStatementError)
        if not is_outdated or connection.is_in_transaction():
            raise
        context.handle_dbapi_exception(error)  # forgets all prepared statements
        context.pre_exec()  # so that the cursor does not use them
        cursor.execute(statement, parameters)
    return True
