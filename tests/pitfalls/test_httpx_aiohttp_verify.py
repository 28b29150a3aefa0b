"""httpx-aiohttp: the transport ignores its `verify` if it is given a function that creates the session."""

import ssl

import aiohttp
import httpx
import pytest
from httpx_aiohttp import AiohttpTransport

from gateway.devstack.open_meteo import create_app
from tests.support.certificates import Certificates
from tests.support.https import https_server


async def broken(url: str, context: ssl.SSLContext) -> int:
    transport = AiohttpTransport(verify=context, client=aiohttp.ClientSession)
    async with httpx.AsyncClient(transport=transport) as client:
        return (await client.get(url)).status_code


async def fixed(url: str, context: ssl.SSLContext) -> int:
    def create_session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context))

    transport = AiohttpTransport(verify=False, client=create_session)
    async with httpx.AsyncClient(transport=transport) as client:
        return (await client.get(url)).status_code


async def test_context_is_ignored(certificates: Certificates) -> None:
    """The authorities of the context are not used, so a server with a private authority is not trusted."""
    context = ssl.create_default_context(cafile=certificates.ca_file)
    async with https_server(create_app(), certificates.server) as url:
        with pytest.raises(httpx.TransportError, match="certificate verify failed"):
            await broken(f"{url}/livez", context)


async def test_context_of_the_connector_is_used(certificates: Certificates) -> None:
    """The context of the connector trusts the private authority, although `verify` is off."""
    context = ssl.create_default_context(cafile=certificates.ca_file)
    async with https_server(create_app(), certificates.server) as url:
        assert await fixed(f"{url}/livez", context) == httpx.codes.OK


async def test_certificate_is_verified(certificates: Certificates) -> None:
    """The connector rejects a server of another authority, although `verify` is off."""
    context = ssl.create_default_context(cafile=certificates.ca_file)
    async with https_server(create_app(), certificates.untrusted_server) as url:
        with pytest.raises(httpx.TransportError, match="certificate verify failed"):
            await fixed(f"{url}/livez", context)
