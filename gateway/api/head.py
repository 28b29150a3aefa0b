"""HEAD requests: each path that supports GET supports HEAD, too."""

from collections.abc import Awaitable

from starlette.types import ASGIApp, Receive, Scope, Send


class HeadMiddleware:
    """Routes a HEAD request like a GET request. The server omits the body, because it still sees the method HEAD."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope.get("method") == "HEAD":
            scope = {**scope, "method": "GET"}
        return self._app(scope, receive, send)
