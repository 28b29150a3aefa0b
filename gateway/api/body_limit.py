"""The answer to a body that is too large, as a problem: Starlette's limit answers in plain text."""

from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.problems import problem

LARGEST_BODY = 1024 * 1024
"""Of a request, in bytes."""


class LargeBodyProblemMiddleware:
    """Goes around the application's limit, and puts a problem in the place of its answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        too_large = False

        async def send_or_replace(message: Message) -> None:
            nonlocal too_large
            if message["type"] == "http.response.start" and message["status"] == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                too_large = True
                detail = f"Send no more than {LARGEST_BODY} bytes."
                await problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail)(scope, receive, send)
            if not too_large:
                await send(message)

        await self._app(scope, receive, send_or_replace)
