"""The HTTP client and certificates: a private authority, a certificate of the client, and those that are not valid."""

import ssl
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from gateway.devstack.open_meteo import create_app
from gateway.resources.base import PermanentError
from gateway.resources.http import (
    CHECK_PATH,
    HttpClient,
    TLSHandshakeError,
    is_connection_refused,
    is_retryable,
    is_timeout,
)
from gateway.settings import HttpSettings
from tests.support.certificates import Certificates
from tests.support.https import https_server


def client_of(url: str, **files: Path) -> HttpClient:
    return HttpClient(HttpSettings.model_validate({"weather_url": SecretStr(url), **files}), "test")


async def test_private_authority(certificates: Certificates) -> None:
    """A server with a certificate of the authority in `ca_file` is trusted."""
    async with https_server(create_app(), certificates.server) as url:
        resource = client_of(url, ca_file=certificates.ca_file)
        async with resource.open():
            assert await resource.check() == url.removeprefix("https://")


async def test_default_authorities(certificates: Certificates) -> None:
    """Without `ca_file`, a server with a certificate of a private authority is not trusted."""
    async with https_server(create_app(), certificates.server) as url:
        resource = client_of(url)
        async with resource.open():
            with pytest.raises(TLSHandshakeError, match="unable to get local issuer certificate"):
                await resource.check()


async def test_authorities_are_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `ca_file`, the client uses the authorities that aiohttp has loaded when it was imported."""

    def load_again(*_: object, **__: object) -> ssl.SSLContext:
        raise AssertionError("the authorities are loaded again")

    monkeypatch.setattr(ssl, "create_default_context", load_again)
    async with client_of("https://localhost").open() as client:
        with pytest.raises(httpx.TransportError):
            await client.get("https://localhost:1/")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("expired_server", "certificate has expired"),
        ("misnamed_server", "Hostname mismatch"),
        ("untrusted_server", "unable to get local issuer certificate"),
    ],
)
async def test_invalid_certificate(certificates: Certificates, name: str, reason: str) -> None:
    """The check has the reason. The request counts neither as refused nor as a timeout, and is not sent again."""
    async with https_server(create_app(), getattr(certificates, name)) as url:
        resource = client_of(url, ca_file=certificates.ca_file)
        async with resource.open() as client:
            with pytest.raises(TLSHandshakeError, match=f"{reason}.*GATEWAY_HTTP__CA_FILE"):
                await resource.check()
            with pytest.raises(httpx.TransportError) as caught:
                await client.get(CHECK_PATH)

    assert not is_connection_refused(caught.value)
    assert not is_timeout(caught.value)
    assert not is_retryable(caught.value)


async def test_client_certificate(certificates: Certificates) -> None:
    """A server that demands a certificate gets that of `cert_file`."""
    async with https_server(create_app(), certificates.server, client_ca_file=certificates.ca_file) as url:
        resource = client_of(
            url,
            ca_file=certificates.ca_file,
            cert_file=certificates.client.cert_file,
            key_file=certificates.client.key_file,
        )
        async with resource.open():
            assert await resource.check() == url.removeprefix("https://")


async def test_rejected_client(certificates: Certificates) -> None:
    """A server that demands a certificate rejects a client without one. That is no timeout."""
    async with https_server(create_app(), certificates.server, client_ca_file=certificates.ca_file) as url:
        resource = client_of(url, ca_file=certificates.ca_file)
        async with resource.open():
            with pytest.raises((httpx.TransportError, TLSHandshakeError)) as caught:
                await resource.check()

    assert not is_timeout(caught.value)


@pytest.mark.parametrize("field", ["ca_file", "cert_file"])
async def test_missing_file(field: str) -> None:
    """A file that does not exist fails the startup, with the variable and the path."""
    resource = client_of("https://localhost", **{field: Path("/nowhere/file.pem")})

    with pytest.raises(PermanentError) as caught:
        async with resource.open():
            pass

    assert str(caught.value) == (
        f"GATEWAY_HTTP__{field.upper()}: '/nowhere/file.pem' cannot be read: no such file or directory"
    )
