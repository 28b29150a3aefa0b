"""The outermost layer of every request: its id, in each answer and in each line of the log."""

import random
import re
from collections.abc import Awaitable

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, unbind_contextvars

HEADER = b"x-request-id"
_ACCEPTED = re.compile(rb"[!-~]{1,128}")

log = structlog.get_logger()


class RequestIdMiddleware:
    """Takes the id from the request, if it has a usable one, or makes one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == HEADER), b"")
        request_id = given if _ACCEPTED.fullmatch(given) else b"%032x" % random.getrandbits(128)
        scope["request_id"] = request_id.decode()
        answered = False

        def send_with_id(message: Message) -> Awaitable[None]:
            nonlocal answered
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (HEADER, request_id)]
            elif message["type"] == "http.response.body":
                answered = not message.get("more_body", False)
            return send(message)

        bind_contextvars(request_id=scope["request_id"])
        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            log.exception("a request failed", method=scope["method"], path=scope["path"])
            if not answered:
                raise  # the server cuts the connection, so that nobody takes half an answer for a whole one
        finally:
            unbind_contextvars("request_id")
