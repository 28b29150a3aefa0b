"""uvicorn: with httptools, the body of a request with the header Upgrade is the next request."""

import asyncio
from collections.abc import Callable
from functools import partial

import uvicorn
from fastapi import FastAPI, Request

from gateway.serving.http_limits import HttpLimits
from gateway.serving.http_protocol import LimitedHttpProtocol
from tests.support.waiting import TIMEOUT, wait_until

BODY = b"GET /admin HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n"
HEAD = (
    b"POST /notes HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n"
    % len(BODY)
)


def broken(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(app, http="httptools", ws="none")


def fixed(app: FastAPI) -> uvicorn.Config:
    limits = HttpLimits(max_head_bytes=32 * 1024, head_timeout=10, max_connections=100)
    return uvicorn.Config(app, http=partial(LimitedHttpProtocol, limits=limits), ws="none")  # type: ignore[arg-type]


async def requests(create_config: Callable[[FastAPI], uvicorn.Config]) -> dict[str, bytes]:
    """Send one request, its body after its head. Return the bodies that the app has received, by path."""
    received: dict[str, bytes] = {}
    app = FastAPI()

    @app.api_route("/{path}", methods=["GET", "POST"])
    async def receive(request: Request) -> None:
        received[request.url.path] = await request.body()

    config = create_config(app)
    config.port, config.log_config, config.lifespan = 0, None, "off"
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await wait_until(lambda: server.started, "the server listens")
    reader, writer = await asyncio.open_connection(*server.servers[0].sockets[0].getsockname())
    try:
        writer.write(HEAD)
        await wait_until(
            lambda: any(getattr(each, "cycle", None) for each in server.server_state.connections),
            "the head has arrived",
        )
        writer.write(BODY)
        async with asyncio.timeout(TIMEOUT):
            await reader.readuntil(b"null")
            if create_config is broken:
                await reader.readuntil(b"null")
    finally:
        writer.close()
        server.should_exit = True
        await serving
    return received


async def test_body_is_the_next_request() -> None:
    """The request loses its body, and the app receives a second request."""
    assert await requests(broken) == {"/notes": b"", "/admin": b""}, "fixed upstream: uvicorn keeps the body"


async def test_upgrade_is_ignored() -> None:
    """A parser that gets the head without the header keeps the body."""
    assert await requests(fixed) == {"/notes": BODY}
