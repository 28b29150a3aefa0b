"""The fields of log lines about a request. A client cannot forge a line with them, and none has a query string."""

from typing import Any
from urllib.parse import quote

from starlette.types import Scope

MAX_LENGTH = 200  # characters of a path, before they are quoted
_UNQUOTED = "/:@!$&'()*+,;="  # in addition to letters, digits and `_.-~`

LogFields = dict[str, Any]


def fields_of_request(scope: Scope) -> LogFields:
    """Return method, path, client address and request id."""
    return {
        "method": scope["method"],
        "path": printable_path(scope["path"]),
        "client": client_address(scope.get("client")),
        "request_id": scope.get("request_id"),
    }


def printable_path(path: str) -> str:
    """Return a path in printable ASCII, cut if it is long. A query string may contain secrets, so it is no part of it."""
    return quote(path[:MAX_LENGTH], safe=_UNQUOTED, errors="replace") + ("..." if len(path) > MAX_LENGTH else "")


def client_address(client: tuple[str, int] | None) -> str | None:
    """Return the address without the port. A proxy may have sent anything in its place."""
    return None if client is None else quote(client[0][:MAX_LENGTH], safe=":", errors="replace")
