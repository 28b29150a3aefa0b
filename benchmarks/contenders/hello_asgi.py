"""A ceiling: an ASGI app without a framework."""

from starlette.types import Receive, Scope, Send

BODY = b'{"message":"Hello World"}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Send the same body for every request."""
    del scope, receive
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})
