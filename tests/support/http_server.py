"""A real HTTP server in this process."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Generator
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from tests.support.waiting import wait_until


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield  # the signal handlers are those of pytest


@contextlib.asynccontextmanager
async def http_server(app: ASGIApp, **options: Any) -> AsyncIterator[int]:
    """Serve an app on a free port with further options of uvicorn; yield the port."""
    config = uvicorn.Config(app, port=0, lifespan="off", log_config=None, timeout_graceful_shutdown=1, **options)
    server = _Server(config)
    serving = asyncio.create_task(server.serve())
    try:
        await wait_until(lambda: server.started, "the server listens")
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await serving
