"""The access log: one line for each response of the app, if `GATEWAY_ACCESS_LOG` is set."""

from collections.abc import Awaitable
from time import monotonic

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.log_fields import fields_of_request

log = structlog.get_logger("gateway.access")


class AccessLogMiddleware:
    """Logs each response, and each request that was cancelled before it had one: with the status None."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_at = monotonic()
        status: int | None = None
        body_bytes = 0

        def count_and_send(message: Message) -> Awaitable[None]:
            nonlocal status, body_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
            elif scope["method"] != "HEAD":
                body_bytes += len(message.get("body", b""))
            return send(message)

        try:
            await self._app(scope, receive, count_and_send)
        finally:
            duration = round((monotonic() - started_at) * 1000, 3)
            log.info("access", status=status, duration_ms=duration, bytes=body_bytes, **fields_of_request(scope))
