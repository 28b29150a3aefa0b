"""The limit of the parameters in a query."""

from collections.abc import Awaitable
from http import HTTPStatus

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.api.problems import problem

MAX_PARAMETERS = 100  # a head of 32 KiB has room for 11,000, and parsing those would hold the event loop for 10 ms


class QueryLimitMiddleware:
    """Rejects queries with more parameters than any route has a use for, before they are parsed."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http" and scope["query_string"].count(b"&") >= MAX_PARAMETERS:
            detail = f"The query has too many parameters. Send at most {MAX_PARAMETERS}."
            return problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, scope)(scope, receive, send)
        return self._app(scope, receive, send)
