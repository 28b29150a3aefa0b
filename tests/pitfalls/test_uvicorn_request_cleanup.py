"""uvicorn: it cancels requests that take too long, and ends the lifespan before these requests have cleaned up."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

from tests.support.waiting import wait_until


async def broken(server: uvicorn.Server) -> None:
    await server.serve()


async def fixed(server: uvicorn.Server, app: FastAPI) -> None:
    async with lifespan(app):
        server.config.lifespan = "off"
        await server.serve()
        if cancelled := server.server_state.tasks:
            await asyncio.wait(cancelled, timeout=3)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    yield
    app.state.events.append("lifespan ended")


def create_app() -> FastAPI:
    """Create an app with a request that does not end on its own, and takes 0.1 s to clean up."""
    app = FastAPI(lifespan=lifespan)
    app.state.events = []

    @app.get("/")
    async def handle() -> None:
        app.state.events.append("request started")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.1)
            app.state.events.append("request cleaned up")

    return app


async def stop_during_request(app: FastAPI, serve: Callable[[uvicorn.Server], Awaitable[None]]) -> list[str]:
    """Stop a server that has a request in flight. Return the events in order."""
    config = uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=0.1)  # type: ignore[arg-type]  # a float works
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(serve(server))

    async def is_listening() -> bool:
        return server.started

    async def request_started() -> bool:
        return "request started" in app.state.events

    async def request_cleaned_up() -> bool:
        return "request cleaned up" in app.state.events

    await wait_until(is_listening, "the server listens")
    _, writer = await asyncio.open_connection(*server.servers[0].sockets[0].getsockname())
    writer.write(b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n")
    await wait_until(request_started, "the request has started")
    server.should_exit = True
    await serving
    await wait_until(request_cleaned_up, "the request has cleaned up")
    writer.close()
    await writer.wait_closed()
    events: list[str] = app.state.events
    return events


async def test_lifespan_ends_before_request_cleanup() -> None:
    """The lifespan ends while the cancelled request still cleans up."""
    assert await stop_during_request(create_app(), broken) == [
        "request started",
        "lifespan ended",
        "request cleaned up",
    ]


async def test_lifespan_outside_server_waits() -> None:
    """A program that enters the lifespan itself can wait for the requests before it exits the lifespan."""
    app = create_app()

    async def serve(server: uvicorn.Server) -> None:
        await fixed(server, app)

    assert await stop_during_request(app, serve) == ["request started", "request cleaned up", "lifespan ended"]
