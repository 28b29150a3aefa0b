"""What went wrong, in one clear line: which setting, which resource, and what to do about it. Never a secret."""

from collections.abc import Callable

from sqlalchemy.exc import DBAPIError

from gateway.lifecycle import StartError, StartTimeoutError, TeardownError, format_error
from gateway.resources.base import PermanentError
from gateway.settings import PREFIX, Settings, host_and_port

_WHERE: dict[str, tuple[str, Callable[[Settings], str]]] = {
    "http": ("HTTP__WEATHER_URL", lambda settings: host_and_port(settings.http.weather_url)),
    "database": ("DATABASE__URL", lambda settings: host_and_port(settings.database.url)),
    "redis": ("REDIS__URL", lambda settings: host_and_port(settings.redis.url)),
    "rabbitmq": ("RABBITMQ__URL", lambda settings: host_and_port(settings.rabbitmq.url)),
    "model": ("MODEL__PATH", lambda settings: str(settings.model.path)),
}
_REFUSALS = {
    "28P01": "refuses this user or password: correct them in the URL",
    "28000": "refuses this user or password: correct them in the URL",
    "3D000": "has no such database: create it, or correct the name in the URL",
    "42501": "does not let this user do that: grant it, or name another user in the URL",
}


def explain(error: Exception, settings: Settings) -> str:
    """Say why the gateway did not start, or what was wrong when it stopped."""
    if isinstance(error, TeardownError):
        return "; ".join(map(format_error, error.exceptions))
    if not isinstance(error, StartError):
        return format_error(error)
    cause = error.__cause__
    if isinstance(cause, PermanentError):
        return f"{error.name}: {cause}"
    if error.name not in _WHERE or cause is None:
        return str(error)
    variable, where = _WHERE[error.name]
    what = f"start what should answer at {where(settings)}, or correct {PREFIX}{variable}"
    return f"{error.name}: {_reason(cause)}: {what}"


def explain_database_error(error: Exception, settings: Settings) -> str:
    """Say why the database could not be migrated or filled."""
    where = host_and_port(settings.database.url)
    if isinstance(error, DBAPIError):
        refusal = _REFUSALS.get(getattr(error.orig, "sqlstate", None) or "")
        if refusal is not None:
            return f"database: {PREFIX}DATABASE__URL: the server at {where} {refusal}"
        return f"database: the server at {where} says: {format_error(error.orig or error)}"
    if isinstance(error, OSError):
        what = f"start what should answer at {where}, or correct {PREFIX}DATABASE__URL"
        return f"database: {format_error(error)}: {what}"
    return f"database: {error}"


def _reason(cause: BaseException) -> str:
    if not isinstance(cause, StartTimeoutError):
        return format_error(cause)
    whole = "".join(f" ({note})" for note in getattr(cause, "__notes__", ()))
    last = f", the last attempt failed with {format_error(cause.__cause__)}" if cause.__cause__ else ""
    return f"{cause}{whole}{last}"
