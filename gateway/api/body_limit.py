"""Replaces Starlette's plain-text response to a request body that is too large with a problem."""

import asyncio
import contextlib
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.middleware.body_limit import MAX_BODY_SIZE_SCOPE_KEY
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.problems import problem

METHODS_WITH_BODY = {"POST", "PUT", "PATCH"}

# A client that is still sending when the connection is closed gets a reset instead of the response. So the rest of the
# body is read and dropped, up to these limits.
MAX_DRAIN_BYTES = 16 * 1024 * 1024
DRAIN_TIMEOUT = 2.0


class PayloadTooLargeMiddleware:
    """Replaces the 413 response of the routes that have a body limit with a problem."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") not in METHODS_WITH_BODY:
            await self._app(scope, receive, send)
            return
        too_large = body_complete = False

        async def track_receive() -> Message:
            nonlocal body_complete
            message = await receive()
            body_complete = not message.get("more_body", False)
            return message

        async def send_or_replace(message: Message) -> None:
            nonlocal too_large
            if message["type"] == "http.response.start" and message["status"] == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                too_large = True
                headers = {} if body_complete else await drop_body(scope, receive)
                detail = f"The body is too large. Send at most {scope[MAX_BODY_SIZE_SCOPE_KEY]} bytes."
                response = problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail, scope, headers=headers)
                await response(scope, receive, send)
            if not too_large:
                await send(message)

        await self._app(scope, track_receive, send_or_replace)


async def drop_body(scope: Scope, receive: Receive) -> dict[str, str]:
    """Read the rest of the body and drop it, up to the limits. Return headers for the response.

    A client that sends `Expect: 100-continue` waits for the response before it sends the body. Reading would request the body.
    """
    if Headers(scope=scope).get("Expect", "").lower() == "100-continue":
        return {"Connection": "close"}
    length = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_TIMEOUT):
            while length <= MAX_DRAIN_BYTES:
                message = await receive()
                length += len(message.get("body", b""))
                if not message.get("more_body", False):
                    break
    return {}
