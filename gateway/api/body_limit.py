"""The answer to a body that is too large, as a problem: Starlette's limit answers in plain text."""

import asyncio
import contextlib
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.problems import problem

MAX_BODY_BYTES = 1024 * 1024
"""Of a request, in bytes."""

WITH_BODY = {"POST", "PUT", "PATCH"}
"""Methods with which there may be one that we read."""

READ_ON = 16 * MAX_BODY_BYTES
"""How much of a body that is too large is read, and dropped: a client that still sends when we close sees no answer, but
that its connection was reset."""

READ_ON_WITHIN = 2.0
"""Seconds for that."""


class PayloadTooLargeMiddleware:
    """Goes around the routes, and puts a problem in the place of their limit's answer. Each that reads a body has the limit."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") not in WITH_BODY:
            await self._app(scope, receive, send)
            return
        too_large = ended = False

        async def receive_and_note() -> Message:
            nonlocal ended
            message = await receive()
            ended = not message.get("more_body", False)
            return message

        async def send_or_replace(message: Message) -> None:
            nonlocal too_large
            if message["type"] == "http.response.start" and message["status"] == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                too_large = True
                if not ended:
                    await _read_on(receive)
                detail = f"Send no more than {MAX_BODY_BYTES} bytes."
                await problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)(scope, receive, send)
            if not too_large:
                await send(message)

        await self._app(scope, receive_and_note, send_or_replace)


async def _read_on(receive: Receive) -> None:
    length = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(READ_ON_WITHIN):
            while length <= READ_ON:
                message = await receive()
                length += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
