"""Error messages for operators: one line with the setting, the resource and the fix, and without secrets."""

import os

from sqlalchemy.exc import DBAPIError

from gateway.lifecycle import StartError, StartTimeoutError, TeardownError, format_error
from gateway.resources.base import PermanentError
from gateway.schema.connect import ConnectError
from gateway.schema.lock_waits import LockWaitError
from gateway.schema.revision import SchemaMismatchError
from gateway.schema.rights import RoleError
from gateway.settings import DatabaseSettings, ResourceSettings, Settings, variable_name

_POOLER = "is behind a connection pooler without prepared statements: set it to none"
_MISSING_RIGHT = (
    "does not permit this to the user: grant its rights with `gateway migrate --grant-to`, or for `migrate`, `seed` and "
    "`observations remove-notes` use the URL of the owner"
)
_SQLSTATE_MESSAGES = {  # with the field of the settings to correct
    "42501": ("url", _MISSING_RIGHT),
    "26000": ("prepared_statements", _POOLER),  # the statement does not exist
    "42P05": ("prepared_statements", _POOLER),  # the statement exists already
}
_TIMEOUT_REASONS = {
    "database": "another session may hold a lock, or the server is overloaded",
    "rabbitmq": "it may be overloaded",
}


def explain(error: Exception, settings: Settings) -> str:
    """Return the reason why the gateway did not start, or why its shutdown was unclean."""
    if isinstance(error, TeardownError):
        return "; ".join(map(format_error, error.exceptions))
    if not isinstance(error, StartError):
        return format_error(error)
    cause = error.__cause__
    if isinstance(cause, PermanentError):  # of a background worker, too
        return f"{error.name}: {cause}"
    group = getattr(settings, error.name, None)
    if cause is None or not isinstance(group, ResourceSettings):  # a background worker has no settings
        return str(error)
    return _explain_cause(error.name, cause, group)


def explain_database_error(error: Exception, settings: Settings) -> str:
    """Return the reason why the database could not be migrated or seeded, as `explain` does for the same error."""
    if isinstance(error, LockWaitError | RoleError):
        return f"database: {error}"  # no setting is wrong
    return _explain_cause("database", error, settings.database)


def explain_resource_error(name: str, error: Exception, settings: Settings) -> str:
    """Return the reason why a command failed that uses one resource, as `explain` does for the same error."""
    if isinstance(error, StartError | TeardownError):
        return explain(error, settings)
    if isinstance(error, PermanentError):
        return f"{name}: {error}"
    group: ResourceSettings = getattr(settings, name)
    if isinstance(_driver_error(error), TimeoutError):  # the connection was made, so no setting is wrong
        return f"{name}: the server at {group.location} did not respond in time: {_TIMEOUT_REASONS[name]}"
    return _explain_cause(name, error, group)


def _explain_cause(name: str, cause: BaseException, group: ResourceSettings) -> str:
    prefix = f"{name}: {variable_name(name, group.location_field)}"
    advice = f"check that {group.location} is available, or correct the variable"
    if isinstance(cause, StartTimeoutError):
        notes = "".join(f" ({note})" for note in getattr(cause, "__notes__", ()))
        if cause.__cause__ is None:
            return f"{prefix}: {cause}{notes}: {advice}"
        return f"{_explain_cause(name, cause.__cause__, group)} ({cause}){notes}"
    if isinstance(cause, ConnectError) and isinstance(group, DatabaseSettings):
        return f"{name}: {group.variable(cause.field)}: {cause}"
    cause = _driver_error(cause)
    if sqlstate := getattr(cause, "sqlstate", None):
        field, reason = _SQLSTATE_MESSAGES.get(sqlstate, (group.location_field, f"reports: {format_error(cause)}"))
        return f"{name}: {variable_name(name, field)}: the server at {group.location} {reason}"
    if isinstance(cause, SchemaMismatchError):
        return f"{prefix}: {cause}"
    return f"{prefix}: {_format_error(cause)}: {advice}"


def _driver_error(error: BaseException) -> BaseException:
    """Return the error of the driver that SQLAlchemy wraps, twice for asyncpg."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        return error.orig.__cause__ or error.orig
    return error


def _format_error(error: BaseException) -> str:
    """Format an error without the details of a system call, which differ between event loops."""
    if isinstance(error, ConnectionError) and error.errno:
        return f"{type(error).__name__}: {os.strerror(error.errno).lower()}"
    return format_error(error)
