"""httpx on httpx-aiohttp: a connection that is refused, or lost, is called a timeout."""

import aiohttp
import httpx
import pytest
from httpx_aiohttp import AiohttpTransport


async def naive(client: httpx.AsyncClient, url: str) -> str:
    try:
        await client.get(url)
    except httpx.TimeoutException:
        return "too slow"
    except httpx.ConnectError:
        return "refused"
    except httpx.RequestError:
        return "lost"
    return "answered"


async def cure(client: httpx.AsyncClient, url: str) -> str:
    try:
        await client.get(url)
    except httpx.RequestError as error:
        if isinstance(error.__cause__, TimeoutError):
            return "too slow"
        if isinstance(error.__cause__, aiohttp.ClientConnectorError):
            return "refused"
        return "lost"
    return "answered"


def client() -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=AiohttpTransport(verify=False), timeout=0.2)


@pytest.fixture
def urls(refusing_port: int, cutting_port: int, silent_port: int) -> list[str]:
    return [f"http://127.0.0.1:{port}/" for port in (refusing_port, cutting_port, silent_port)]


async def test_all_failures_are_timeouts(urls: list[str]) -> None:
    async with client() as aiohttp_client:
        findings = [await naive(aiohttp_client, url) for url in urls]
    async with httpx.AsyncClient(timeout=0.2) as plain_client:
        findings_of_httpx = [await naive(plain_client, url) for url in urls]

    assert findings == ["too slow", "too slow", "too slow"], "httpx-aiohttp tells them apart by now"
    assert findings_of_httpx == ["refused", "lost", "too slow"]


async def test_what_aiohttp_said_tells_them_apart(urls: list[str]) -> None:
    async with client() as aiohttp_client:
        assert [await cure(aiohttp_client, url) for url in urls] == ["refused", "lost", "too slow"]
