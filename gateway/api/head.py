"""HEAD requests: each path that supports GET supports HEAD, too."""

from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadMiddleware:
    """Routes a HEAD request like a GET request. The server omits the body, because it still sees the method HEAD.

    A stream ends with its first part: the response is complete then, and the server reports a disconnect to the app.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope.get("method") == "HEAD":
            return self._route(scope, receive, send)
        return self._app(scope, receive, send)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a copy of the scope, and copy its route back: the middleware outside of this one counts responses by route."""
        routed = {**scope, "method": "GET"}
        is_complete = False

        async def send_with_route(message: Message) -> None:
            nonlocal is_complete
            scope["route"] = routed.get("route")
            if message["type"] == "http.response.body":
                message["more_body"] = False
            if not is_complete:
                is_complete = message["type"] == "http.response.body"
                await send(message)

        try:
            await self._app(routed, receive, send_with_route)
        finally:  # a request that fails or is cancelled gets its response from outside
            scope["route"] = routed.get("route")
