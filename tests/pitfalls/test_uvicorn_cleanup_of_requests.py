"""uvicorn: it cancels the requests that take too long, and ends the lifespan without waiting for their clean-up."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

from tests.end_to_end.running import until


async def naive(server: uvicorn.Server) -> None:
    await server.serve()


async def cure(server: uvicorn.Server, app: FastAPI) -> None:
    async with lifespan(app):
        server.config.lifespan = "off"
        await server.serve()
        if cancelled := server.server_state.tasks:
            await asyncio.wait(cancelled, timeout=3)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    yield
    app.state.events.append("the lifespan has ended")


def made() -> FastAPI:
    """An app with a request that takes for ever, and a while to clean up."""
    app = FastAPI(lifespan=lifespan)
    app.state.events = []

    @app.get("/")
    async def handle() -> None:
        app.state.events.append("a request")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.1)
            app.state.events.append("the request has cleaned up")

    return app


async def stopped(app: FastAPI, serve: Callable[[uvicorn.Server], Awaitable[None]]) -> list[str]:
    """Stop a server while it has a request; return what happened in order."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=0.1))  # type: ignore[arg-type]
    serving = asyncio.ensure_future(serve(server))

    async def started() -> bool:
        return server.started

    async def requested() -> bool:
        return "a request" in app.state.events

    async def cleaned_up() -> bool:
        return "the request has cleaned up" in app.state.events

    await until(started, "the server listens")
    _, writer = await asyncio.open_connection(*server.servers[0].sockets[0].getsockname())
    writer.write(b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n")
    await until(requested, "the request is there")
    server.should_exit = True
    await serving
    await until(cleaned_up, "the request ends")
    writer.close()
    await writer.wait_closed()
    events: list[str] = app.state.events
    return events


async def test_the_lifespan_ends_before_the_request_has_cleaned_up() -> None:
    assert await stopped(made(), naive) == ["a request", "the lifespan has ended", "the request has cleaned up"]


async def test_who_owns_the_lifespan_can_wait() -> None:
    app = made()

    async def serve(server: uvicorn.Server) -> None:
        await cure(server, app)

    assert await stopped(app, serve) == ["a request", "the request has cleaned up", "the lifespan has ended"]
