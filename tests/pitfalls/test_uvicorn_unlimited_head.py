"""uvicorn: with httptools, the head of a request has no maximum size and no deadline."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import uvicorn
from fastapi import FastAPI

from gateway.serving.http_limits import HttpLimits
from gateway.serving.http_protocol import LimitedHttpProtocol
from tests.support.waiting import TIMEOUT, wait_until

LARGE_HEAD = b"GET / HTTP/1.1\r\nHost: gateway\r\nX: " + b"x" * 4 * 1024 * 1024 + b"\r\n\r\n"
HALF_HEAD = b"GET / HTTP/1.1\r\nHost: gate"


def broken(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(app, http="httptools", timeout_keep_alive=1, limit_concurrency=100)


def fixed(app: FastAPI) -> uvicorn.Config:
    limits = HttpLimits(max_head_bytes=32 * 1024, head_timeout=0.2, max_connections=100)
    return uvicorn.Config(app, http=partial(LimitedHttpProtocol, limits=limits))  # type: ignore[arg-type]


@asynccontextmanager
async def connection(
    create_config: Callable[[FastAPI], uvicorn.Config],
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect to a server with this configuration."""
    config = create_config(FastAPI())
    config.port, config.log_config, config.lifespan = 0, None, "off"
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())

    async def is_listening() -> bool:
        return server.started

    await wait_until(is_listening, "the server listens")
    reader, writer = await asyncio.open_connection(*server.servers[0].sockets[0].getsockname())
    try:
        yield reader, writer
    finally:
        writer.close()
        await asyncio.wait({asyncio.ensure_future(writer.wait_closed())}, timeout=TIMEOUT)
        server.should_exit = True
        await serving


async def status_of(reader: asyncio.StreamReader) -> int:
    async with asyncio.timeout(TIMEOUT):
        return int((await reader.readline()).split()[1])


async def test_large_head_is_accepted() -> None:
    """A header of 4 MiB is read and given to the app."""
    async with connection(broken) as (reader, writer):
        writer.write(LARGE_HEAD)

        assert await status_of(reader) == 404, "fixed upstream: uvicorn limits the size of a head"


async def test_half_head_has_no_deadline() -> None:
    """A connection with half a head stays open: the timeout for idle connections does not include it."""
    async with connection(broken) as (reader, writer):
        writer.write(HALF_HEAD)

        with pytest.raises(TimeoutError):  # otherwise fixed upstream: a head has a deadline
            async with asyncio.timeout(2):
                await reader.read()


@pytest.mark.parametrize(("sent", "status"), [(LARGE_HEAD, 431), (HALF_HEAD, 408)])
async def test_limited_protocol(sent: bytes, status: int) -> None:
    """A protocol with limits rejects both."""
    async with connection(fixed) as (reader, writer):
        writer.write(sent)

        assert await status_of(reader) == status
