"""The HTTP client: its health check, and the classification of its errors."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from pydantic import SecretStr

from gateway.resources.http import (
    HttpClient,
    is_connection_refused,
    is_retryable,
    is_server_failure,
    is_timeout,
)
from gateway.settings import HttpSettings

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def client_of(serve: Serve, scheme: str = "http") -> AsyncIterator[tuple[HttpClient, httpx.AsyncClient]]:
    """Serve connections with `serve`, and yield the resource with its client."""
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        resource = HttpClient(HttpSettings(weather_url=SecretStr(f"{scheme}://127.0.0.1:{port}")), "test")
        async with resource.open() as client:
            yield resource, client


async def stay_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def close_after_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.close()


async def respond_without_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    writer.close()


async def test_check_of_silent_upstream_keeps_failing() -> None:
    """A check that is cancelled at its deadline counts as a failure, so the next check sends a request again."""
    async with client_of(stay_silent) as (resource, _):
        for _ in range(2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await resource.check()


async def test_lost_connection() -> None:
    """A connection that is lost counts neither as refused nor as a timeout."""
    async with client_of(close_after_request) as (_, client):
        with pytest.raises(httpx.HTTPError) as caught:
            await client.get("/")

    assert not is_connection_refused(caught.value)
    assert not is_timeout(caught.value)
    assert is_retryable(caught.value)


async def test_failed_tls_handshake() -> None:
    """A server without TLS does not count as a refused connection."""
    async with client_of(respond_without_tls, scheme="https") as (_, client):
        with pytest.raises((httpx.HTTPError, ssl.SSLError)) as caught:
            await client.get("/")

    assert not is_connection_refused(caught.value)


async def test_refused_connection() -> None:
    """A port without a server counts as a refused connection."""
    resource = HttpClient(HttpSettings(weather_url=SecretStr("http://127.0.0.1:1")), "test")
    async with resource.open() as client:
        with pytest.raises(httpx.HTTPError) as caught:
            await client.get("/")

    assert is_connection_refused(caught.value)


@pytest.mark.parametrize(
    ("status", "headers", "retryable", "server_failure"),
    [
        (400, {}, False, False),
        (404, {}, False, False),
        (429, {}, False, True),
        (500, {}, False, True),
        (502, {}, True, True),
        (503, {}, True, True),
        (503, {"Retry-After": "5"}, False, True),
        (504, {}, True, True),
    ],
)
def test_error_status(status: int, headers: dict[str, str], *, retryable: bool, server_failure: bool) -> None:
    """A 502, 503 or 504 is retried, unless it has Retry-After. A rejected request is not a failure of the server."""
    response = httpx.Response(status, headers=headers, request=httpx.Request("GET", "http://upstream/"))

    with pytest.raises(httpx.HTTPStatusError) as caught:
        response.raise_for_status()

    assert is_retryable(caught.value) is retryable
    assert is_server_failure(caught.value) is server_failure
