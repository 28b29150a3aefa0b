"""An app for tests of the HTTP server."""

import asyncio
import json

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

LARGE = 16 * 1024 * 1024


class EchoApp:
    """Responds with the length of the request body.

    At `/early` it responds before it reads the body, and at `/hang` after the release. At `/headers` it responds with the names
    of the headers after it has read the body, at `/host` with the header Host, and at `/large` with more than a client can buffer.

    Attributes:
        in_flight: the number of requests that have no response yet.
        paths: of all requests.
        release: the event for `/hang`.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self.paths: list[str] = []
        self.release = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self.paths.append(scope["path"])
        self.in_flight += 1
        try:
            await PlainTextResponse(await self._respond(request))(scope, receive, send)
        except ClientDisconnect:
            pass
        finally:
            self.in_flight -= 1

    async def _respond(self, request: Request) -> str:
        path = request.url.path
        if path == "/hang":
            await self.release.wait()
        length = 0 if path == "/early" else len(await request.body())
        if path == "/headers":
            return f"{','.join(request.headers)}!"
        if path == "/host":
            return f"{','.join(request.headers.getlist('host'))}!"
        return "x" * LARGE if path == "/large" else f"{length} bytes"


def is_problem(response: bytes, status: int) -> bool:
    """Return whether the bytes are one response with a problem of this status, an id and `Connection: close`."""
    head, _, body = response.partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines[1:])
    return (
        lines[0].split()[1] == str(status)
        and fields["content-type"] == "application/problem+json"
        and int(fields["content-length"]) == len(body)
        and fields["connection"] == "close"
        and json.loads(body)["request_id"] == fields["x-request-id"]
        and json.loads(body)["status"] == status
    )
