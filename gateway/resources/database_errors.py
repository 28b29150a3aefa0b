"""The kinds of database errors. Each of these functions is for one decision.

- `is_transient`: the startup tries again.
- `is_unavailable`: a route responds with 503.
- `is_pool_exhausted`: that response is about the number of requests, not about the database.
- `is_retryable`: a background task tries again, and does not end the process.
- `is_outdated`: the writer repeats its transaction at once.
- `is_deadlock`: the writer stores the reports of a group one by one.
- `is_rejected`: the writer reports that nothing was stored.
- `is_wrong_server`: all connections are replaced.
- `is_reachable`: readiness does not count the error as an outage.

SQLAlchemy wraps only some of the driver's errors. All functions recognise wrapped and bare ones.
"""

import asyncpg
from sqlalchemy.exc import DBAPIError, EmulatedDBAPIException
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from gateway.event_loop import OverloadedError
from gateway.network.errors import is_network_error
from gateway.resources.base import PermanentError


class TooManyRequestsError(Exception):
    """Other requests of the same kind use all connections that the kind may use."""


_ALL_IN_USE = (TooManyRequestsError, PoolTimeoutError)
_CONNECTION_LOST = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,  # the server is starting up or shutting down
)
# The statement was rejected before it had an effect. A new connection, or a new prepared statement, may run it.
_OUTDATED = (asyncpg.ReadOnlySQLTransactionError, asyncpg.InvalidCachedStatementError)
_TRANSIENT = (
    *_ALL_IN_USE,
    *_CONNECTION_LOST,
    *_OUTDATED,
    asyncpg.OperatorInterventionError,  # such as a statement that was cancelled
    asyncpg.InsufficientResourcesError,  # too many connections, no memory, no space
    asyncpg.TransactionRollbackError,  # a deadlock or a serialization failure
    asyncpg.LockNotAvailableError,  # the server's lock_timeout
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InternalClientError,  # a statement was sent at the moment at which the server closed the connection
)
_SCHEMA_CHANGED = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError)  # by the migration of another version
# An operator has to fix the database, or is about to.
_OPERATOR_NEEDED = (PermanentError, asyncpg.InsufficientPrivilegeError, *_SCHEMA_CHANGED)
# A value of the statement or of a row that it reads or changes is wrong: out of range, against a constraint, or rejected by a
# trigger (SQLSTATE classes 22, 23, 44 and P0).
_WRONG_DATA = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.WithCheckOptionViolationError,
    asyncpg.PLPGSQLError,
)

_EXPLANATIONS: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    ((OverloadedError,), "The gateway is overloaded"),
    (_ALL_IN_USE, "Too many requests use the database at once"),
    ((TimeoutError, asyncpg.QueryCanceledError, asyncpg.LockNotAvailableError), "The database is too slow"),
    ((asyncpg.TooManyConnectionsError,), "The database has too many connections"),
    ((asyncpg.ReadOnlySQLTransactionError,), "The database is read-only"),
    ((*_SCHEMA_CHANGED, asyncpg.InvalidCachedStatementError), "The schema of the database is being changed"),
    (
        (asyncpg.InsufficientPrivilegeError,),
        "The gateway lacks a right on a table, and an operator has to grant it",
    ),
)


def driver_error(error: BaseException | None) -> BaseException | None:
    """Return asyncpg's own error, if SQLAlchemy has wrapped it, and otherwise the error itself."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    if isinstance(error, EmulatedDBAPIException):  # SQLAlchemy's copy of the driver's error
        error = error.__cause__ or error
    return error


def is_transient(error: BaseException | None) -> bool:
    """Return whether the error may go away without a change: the database is unavailable or too slow."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    error = driver_error(error)
    return isinstance(error, _TRANSIENT) or (error is not None and is_network_error(error))


def is_unavailable(error: BaseException | None) -> bool:
    """Return whether the caller should try again later: the error is transient, or an operator has to fix the database."""
    return is_transient(error) or isinstance(driver_error(error), _OPERATOR_NEEDED)


def is_pool_exhausted(error: BaseException | None) -> bool:
    """Return whether other requests use all connections of the gateway, so that the database has not received the query."""
    return isinstance(error, _ALL_IN_USE)


def is_reported_by_server(error: BaseException | None) -> bool:
    """Return whether PostgreSQL has sent the error. Other errors come from asyncpg, from the network or from a bug."""
    error = driver_error(error)
    return isinstance(error, asyncpg.PostgresError) and getattr(error, "severity", None) is not None


def is_retryable(error: BaseException | None) -> bool:
    """Return whether a background task should try again after the error, and not end the process.

    That is any error that the server reports: a change of the schema or of rights must not end all replicas.
    """
    return is_unavailable(error) or is_reported_by_server(error)


def is_data_error(error: BaseException | None) -> bool:
    """Return whether the server has rejected the data of a statement. The same statement with other data may succeed."""
    error = driver_error(error)
    # FATAL is a refused connection, also with these classes: an option of the role that has an invalid value.
    return isinstance(error, _WRONG_DATA) and getattr(error, "severity_en", None) == "ERROR"


def is_outdated(error: BaseException | None) -> bool:
    """Return whether the connection or its prepared statement is outdated.

    The statement had no effect. The next attempt has a new statement, or a new connection.
    """
    return isinstance(driver_error(error), _OUTDATED)


def is_deadlock(error: BaseException | None) -> bool:
    """Return whether the server has rolled a transaction back because it and others waited for locks of each other."""
    return isinstance(driver_error(error), asyncpg.DeadlockDetectedError)


def is_rejected(error: BaseException | None) -> bool:
    """Return whether the server has rejected a statement, so that its transaction had no effect."""
    return isinstance(driver_error(error), (*_OUTDATED, *_SCHEMA_CHANGED, asyncpg.InsufficientPrivilegeError))


def is_wrong_server(error: BaseException | None) -> bool:
    """Return whether the connection leads to a server that can no longer do the work: it stops, or is read-only."""
    return isinstance(driver_error(error), (*_CONNECTION_LOST, asyncpg.ReadOnlySQLTransactionError))


def is_reachable(error: BaseException | None) -> bool:
    """Return whether the database can be reached in spite of the error, such as too many connections or a missing right."""
    if isinstance(error, PoolTimeoutError):
        return True
    return is_reported_by_server(error) and not isinstance(driver_error(error), _CONNECTION_LOST)


def explain(error: BaseException | None) -> str:
    """Return the reason for an `is_unavailable()` error, for the client of a request: a sentence without a full stop."""
    cause = driver_error(error)
    return next((text for kinds, text in _EXPLANATIONS if isinstance(cause, kinds)), "The database is unavailable")
