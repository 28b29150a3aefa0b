"""httpx on httpx-aiohttp: a refused connection and a lost connection are reported as timeouts."""

import aiohttp
import httpx
import pytest
from httpx_aiohttp import AiohttpTransport


async def broken(client: httpx.AsyncClient, url: str) -> str:
    try:
        await client.get(url)
    except httpx.TimeoutException:
        return "too slow"
    except httpx.ConnectError:
        return "refused"
    except httpx.RequestError:
        return "lost"
    return "ok"


async def fixed(client: httpx.AsyncClient, url: str) -> str:
    try:
        await client.get(url)
    except httpx.RequestError as error:
        if isinstance(error.__cause__, TimeoutError):
            return "too slow"
        if isinstance(error.__cause__, aiohttp.ClientConnectorError):
            return "refused"
        return "lost"
    return "ok"


def client() -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=AiohttpTransport(verify=False), timeout=0.2)


@pytest.fixture
def urls(refusing_port: int, aborting_port: int, silent_port: int) -> list[str]:
    return [f"http://127.0.0.1:{port}/" for port in (refusing_port, aborting_port, silent_port)]


async def test_every_failure_is_a_timeout(urls: list[str]) -> None:
    """With httpx-aiohttp all three failures are `TimeoutException`s; httpx's own transport distinguishes them."""
    async with client() as aiohttp_client:
        results = [await broken(aiohttp_client, url) for url in urls]
    async with httpx.AsyncClient(timeout=0.2) as plain_client:
        plain_results = [await broken(plain_client, url) for url in urls]

    assert results == ["too slow", "too slow", "too slow"], "fixed upstream: httpx-aiohttp distinguishes the failures"
    assert plain_results == ["refused", "lost", "too slow"]


async def test_cause_distinguishes_failures(urls: list[str]) -> None:
    """The `__cause__` is aiohttp's own error, which distinguishes the failures."""
    async with client() as aiohttp_client:
        assert [await fixed(aiohttp_client, url) for url in urls] == ["refused", "lost", "too slow"]
