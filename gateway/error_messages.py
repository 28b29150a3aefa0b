"""Error messages for operators: one line with the setting, the resource and the fix, and without secrets."""

from sqlalchemy.exc import DBAPIError

from gateway.lifecycle import StartError, StartTimeoutError, TeardownError, format_error
from gateway.resources.base import PermanentError
from gateway.schema.connect import ConnectError
from gateway.settings import ResourceSettings, Settings, variable_name

_POOLER = "is behind a connection pooler without prepared statements: set it to none"
_SQLSTATE_MESSAGES = {  # with the field of the settings to correct
    "42501": ("url", "does not permit this to the user: grant the permission, or use another user in the URL"),
    "26000": ("prepared_statements", _POOLER),  # the statement does not exist
    "42P05": ("prepared_statements", _POOLER),  # the statement exists already
}


def explain(error: Exception, settings: Settings) -> str:
    """Return the reason why the gateway did not start, or why its shutdown was unclean."""
    if isinstance(error, TeardownError):
        return "; ".join(map(format_error, error.exceptions))
    if not isinstance(error, StartError):
        return format_error(error)
    cause = error.__cause__
    if isinstance(cause, PermanentError):
        return f"{error.name}: {cause}"
    if message := _explain_sqlstate(cause, settings):
        return message
    group = getattr(settings, error.name, None)
    if cause is None or not isinstance(group, ResourceSettings):  # a background worker has no settings
        return str(error)
    return f"{error.name}: {_reason(cause)}: {_advice(error.name, group)}"


def explain_database_error(error: Exception, settings: Settings) -> str:
    """Return the reason why the database could not be migrated or seeded."""
    if isinstance(error, ConnectError):
        return f"database: {settings.database.variable(error.field)}: {error}"
    if message := _explain_sqlstate(error, settings):
        return message
    if isinstance(error, DBAPIError):
        return f"database: the server at {settings.database.location} reports: {format_error(error.orig or error)}"
    if isinstance(error, OSError):
        return f"database: {format_error(error)}: {_advice('database', settings.database)}"
    return f"database: {error}"


def _explain_sqlstate(error: BaseException | None, settings: Settings) -> str | None:
    """Return the reason for an error of PostgreSQL that a change of a setting may solve."""
    sqlstate = getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None
    if sqlstate not in _SQLSTATE_MESSAGES:
        return None
    field, message = _SQLSTATE_MESSAGES[sqlstate]
    return f"database: {variable_name('database', field)}: the server at {settings.database.location} {message}"


def _advice(name: str, group: ResourceSettings) -> str:
    variable = variable_name(name, group.location_field)
    return f"check that {group.location} is available, or correct {variable}"


def _reason(cause: BaseException) -> str:
    if not isinstance(cause, StartTimeoutError):
        return format_error(cause)
    notes = "".join(f" ({note})" for note in getattr(cause, "__notes__", ()))
    last_error = f", the last attempt failed with {format_error(cause.__cause__)}" if cause.__cause__ else ""
    return f"{cause}{notes}{last_error}"
