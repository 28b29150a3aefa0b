"""The middleware around all others: it gives each request an id, which the response and all log lines of the request have."""

import random
import re
from collections.abc import Awaitable, Iterable

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, clear_contextvars

from gateway.api.failed_responses import FailedResponses, is_failed
from gateway.api.log_fields import printable_path

HEADER = b"x-request-id"

# deploy/haproxy.cfg has the same rule, so that the log of HAProxy has the id of the response. A comma may come from a proxy
# that has joined two headers, and HAProxy's log escapes quotes, braces, bars and hashes.
_VALID_ID = re.compile(rb"[A-Za-z0-9._~+/=:@-]{1,128}")

log = structlog.get_logger()


class RequestIdMiddleware:
    """Uses the client's request id if it is valid, and generates one otherwise. Logs internal errors, and records failed responses."""

    def __init__(self, app: ASGIApp, failed_responses: FailedResponses) -> None:
        self._app = app
        self._failed_responses = failed_responses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            try:
                await self._app(scope, receive, send)
            finally:
                self._failed_responses.close()  # at the end of the lifespan
            return
        request_id = request_id_of(scope["headers"])
        scope["request_id"] = request_id.decode()
        response_complete = False
        failed_status = 0

        def send_with_id(message: Message) -> Awaitable[None]:
            nonlocal response_complete, failed_status
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (HEADER, request_id)]
                if is_failed(message["status"]):
                    failed_status = int(message["status"])
            elif message["type"] == "http.response.body":
                response_complete = not message.get("more_body", False)
                if failed_status:
                    self._failed_responses.record(failed_status, scope, message.get("body", b""))
                    failed_status = 0
            return send(message)

        bind_contextvars(request_id=scope["request_id"])
        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            log.exception("request failed", method=scope["method"], path=printable_path(scope["path"]))
            if not response_complete:
                raise  # the server resets the connection, so that a partial response cannot be mistaken for a complete one
        finally:
            clear_contextvars()  # the id, and the name of the client (`keys.py`, `operators.py`)


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the client's request id, or a new one if the client sent none, an invalid one or more than one."""
    ids = [value.strip(b" \t") for name, value in headers if name == HEADER]  # httptools keeps white space at the end
    if len(ids) == 1 and _VALID_ID.fullmatch(ids[0]):
        return ids[0]
    return b"%032x" % random.getrandbits(128)
