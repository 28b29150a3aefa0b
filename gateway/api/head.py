"""HEAD requests: each path that supports GET supports HEAD, too."""

from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadMiddleware:
    """Routes a HEAD request like a GET request. The server omits the body, because it still sees the method HEAD."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope.get("method") == "HEAD":
            return self._route(scope, receive, send)
        return self._app(scope, receive, send)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a copy of the scope, and copy its route back: the middleware outside of this one counts responses by route."""
        routed = {**scope, "method": "GET"}

        def send_with_route(message: Message) -> Awaitable[None]:
            scope["route"] = routed.get("route")
            return send(message)

        try:
            await self._app(routed, receive, send_with_route)
        finally:  # a request that fails or is cancelled gets its response from outside
            scope["route"] = routed.get("route")
