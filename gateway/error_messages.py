"""Error messages for operators: one line with the setting, the resource and the fix, and without secrets."""

from sqlalchemy.exc import DBAPIError

from gateway.lifecycle import StartError, StartTimeoutError, TeardownError, format_error
from gateway.resources.base import PermanentError
from gateway.settings import ResourceSettings, Settings, variable_name

_SQLSTATE_MESSAGES = {
    "28P01": "rejects this user or password: correct them in the URL",
    "28000": "rejects this user or password: correct them in the URL",
    "3D000": "has no such database: create it, or correct the name in the URL",
    "42501": "does not permit this to the user: grant the permission, or use another user in the URL",
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
    group = getattr(settings, error.name, None)
    if cause is None or not isinstance(group, ResourceSettings):  # a background worker has no settings
        return str(error)
    return f"{error.name}: {_reason(cause)}: {_advice(error.name, group)}"


def explain_database_error(error: Exception, settings: Settings) -> str:
    """Return the reason why the database could not be migrated or seeded."""
    location = settings.database.location
    if isinstance(error, DBAPIError):
        message = _SQLSTATE_MESSAGES.get(getattr(error.orig, "sqlstate", None) or "")
        if message is not None:
            return f"database: {variable_name('database', 'url')}: the server at {location} {message}"
        return f"database: the server at {location} reports: {format_error(error.orig or error)}"
    if isinstance(error, OSError):
        return f"database: {format_error(error)}: {_advice('database', settings.database)}"
    return f"database: {error}"


def _advice(name: str, group: ResourceSettings) -> str:
    variable = variable_name(name, group.location_field)
    return f"check that {group.location} is available, or correct {variable}"


def _reason(cause: BaseException) -> str:
    if not isinstance(cause, StartTimeoutError):
        return format_error(cause)
    notes = "".join(f" ({note})" for note in getattr(cause, "__notes__", ()))
    last_error = f", the last attempt failed with {format_error(cause.__cause__)}" if cause.__cause__ else ""
    return f"{cause}{notes}{last_error}"
