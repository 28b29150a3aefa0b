"""The HTTP client: its health check, and which of its errors means what."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from pydantic import SecretStr

from gateway.resources.http import HttpClient, is_connection_refused, is_timeout
from gateway.settings import HttpSettings

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def client_of(serve: Serve, scheme: str = "http") -> AsyncIterator[tuple[HttpClient, httpx.AsyncClient]]:
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        resource = HttpClient(HttpSettings(weather_url=SecretStr(f"{scheme}://127.0.0.1:{port}")), "test")
        async with resource.open() as client:
            yield resource, client


async def stay_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.close()


async def test_an_upstream_that_hangs_stays_failed() -> None:
    """The check is cancelled at its deadline: the next one must not take that for an answer."""
    async with client_of(stay_silent) as (resource, _):
        for _ in range(2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await resource.check()


async def test_a_connection_that_is_lost_is_neither_refused_nor_too_slow() -> None:
    async with client_of(hang_up) as (_, client):
        with pytest.raises(httpx.HTTPError) as caught:
            await client.get("/")

    assert (is_connection_refused(caught.value), is_timeout(caught.value)) == (False, False)


async def test_a_server_without_tls_is_not_one_that_refuses() -> None:
    async def speak_plainly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with client_of(speak_plainly, scheme="https") as (_, client):
        with pytest.raises((httpx.HTTPError, ssl.SSLError)) as caught:
            await client.get("/")

    assert not is_connection_refused(caught.value)


async def test_nobody_there_is_refused() -> None:
    resource = HttpClient(HttpSettings(weather_url=SecretStr("http://127.0.0.1:1")), "test")
    async with resource.open() as client:
        with pytest.raises(httpx.HTTPError) as caught:
            await client.get("/")

    assert is_connection_refused(caught.value)
