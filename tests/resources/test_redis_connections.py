"""The connections to Redis: a host with several addresses, TLS, and renewal."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ReadOnlyError

from gateway.devstack.redis import RedisServer
from gateway.network.addresses import ATTEMPT_DELAY
from gateway.resources import redis_connections
from gateway.resources.base import PermanentError
from gateway.resources.redis import RedisPool
from gateway.settings import RedisSettings
from tests.support.certificates import Certificate, Certificates

DEAD = "127.0.0.99"


def pool(url: str, **settings: object) -> RedisPool:
    return RedisPool(RedisSettings.model_validate({"url": url} | settings), "connections")


async def ping(url: str, **settings: object) -> bool:
    """Open the pool and send a PING."""
    async with pool(url, **settings).open() as redis:
        return bool(await redis.ping())


async def start_error(url: str, **settings: object) -> str:
    """Return the message of the permanent error with which the start fails."""
    with pytest.raises(PermanentError) as caught:
        await ping(url, **settings)
    return str(caught.value)


async def test_dead_address(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with two addresses, of which the first does not respond, costs a fraction of a second at each connect."""

    async def getaddrinfo(*_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, redis_server.port)) for host in (DEAD, "127.0.0.1")]

    with socket.socket() as full, socket.socket() as filler, socket.socket() as second_filler:
        full.bind((DEAD, redis_server.port))
        full.listen(0)  # a full backlog drops every SYN
        for client in (filler, second_filler):
            client.setblocking(False)
            client.connect_ex((DEAD, redis_server.port))
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        started_at = time.monotonic()

        async with asyncio.timeout(10), pool(redis_server.url.replace("127.0.0.1", "a-name.example")).open() as redis:
            await redis.connection_pool.disconnect()
            assert await redis.ping()

    assert time.monotonic() - started_at < 2 * ATTEMPT_DELAY + 1


class TLSRedis(RedisServer):
    """A Redis with a second port for TLS, with one of the certificates for its servers."""

    number_of_ports = 2

    def __init__(self, folder: Path, certificates: Certificates, certificate: Certificate, *options: str) -> None:
        super().__init__(folder)
        self._tls_options = [
            *("--tls-cert-file", str(certificate.cert_file)),
            *("--tls-key-file", str(certificate.key_file)),
            *("--tls-ca-cert-file", str(certificates.ca_file)),
            *options,
        ]

    def command(self) -> list[str]:
        return [*super().command(), "--tls-port", str(self.ports[1]), *self._tls_options]

    def tls_url(self, host: str = "localhost") -> str:
        return f"rediss://gateway:{self.password}@{host}:{self.ports[1]}/0"


@pytest.fixture(scope="module")
async def tls_server(devstack_folder: Path, certificates: Certificates) -> AsyncIterator[TLSRedis]:
    """A server that demands no certificate of its clients."""
    options = ("--tls-auth-clients", "no")
    async with TLSRedis(devstack_folder / "tls_redis", certificates, certificates.server, *options) as server:
        yield server


@pytest.fixture(scope="module")
async def misnamed_server(devstack_folder: Path, certificates: Certificates) -> AsyncIterator[TLSRedis]:
    """A server with the certificate of another host, which demands a certificate of its clients."""
    async with TLSRedis(devstack_folder / "misnamed_redis", certificates, certificates.misnamed_server) as server:
        yield server


class TestTLS:
    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
    async def test_private_authority(self, tls_server: TLSRedis, certificates: Certificates, host: str) -> None:
        """A server whose certificate the authority in the settings has signed is trusted, by name and by address."""
        assert await ping(tls_server.tls_url(host), ca_file=certificates.ca_file)

    @pytest.mark.parametrize("trusts_another", [False, True])
    async def test_unknown_authority(
        self, tls_server: TLSRedis, certificates: Certificates, trusts_another: bool
    ) -> None:
        """A server whose certificate another authority has signed fails the start at once."""
        settings = {"ca_file": certificates.other_ca_file} if trusts_another else {}

        error = await start_error(tls_server.tls_url(), **settings)

        assert error.startswith("GATEWAY_REDIS__URL: the server at localhost:")
        assert "certificate verify failed" in error
        assert "GATEWAY_REDIS__CA_FILE" in error

    async def test_no_verification(self, tls_server: TLSRedis) -> None:
        """The option `ssl_cert_reqs=none` accepts any certificate."""
        assert await ping(f"{tls_server.tls_url()}?ssl_cert_reqs=none")

    async def test_client_certificate(self, misnamed_server: TLSRedis, certificates: Certificates) -> None:
        """A server that demands a certificate of its clients accepts that of the settings."""
        client = {"cert_file": certificates.client.cert_file, "key_file": certificates.client.key_file}
        url = f"{misnamed_server.tls_url()}?ssl_check_hostname=false"

        assert await ping(url, ca_file=certificates.ca_file, **client)

    async def test_wrong_name(self, misnamed_server: TLSRedis, certificates: Certificates) -> None:
        """A certificate for another host fails the start at once."""
        error = await start_error(misnamed_server.tls_url(), ca_file=certificates.ca_file)

        assert "Hostname mismatch" in error

    async def test_expired_certificate(self, devstack_folder: Path, certificates: Certificates) -> None:
        """An expired certificate fails the start at once."""
        options = ("--tls-auth-clients", "no")
        async with TLSRedis(
            devstack_folder / "expired_redis", certificates, certificates.expired_server, *options
        ) as server:
            error = await start_error(server.tls_url(), ca_file=certificates.ca_file)

        assert "certificate has expired" in error

    async def test_missing_client_certificate(self, misnamed_server: TLSRedis, certificates: Certificates) -> None:
        """A server that demands a certificate of its clients fails the start at once if there is none."""
        url = f"{misnamed_server.tls_url()}?ssl_check_hostname=false"

        error = await start_error(url, ca_file=certificates.ca_file)

        assert "certificate required" in error.lower().replace("_", " ")
        assert "GATEWAY_REDIS__CERT_FILE" in error

    @pytest.mark.parametrize("field", ["ca_file", "cert_file"])
    async def test_missing_file(self, tls_server: TLSRedis, field: str) -> None:
        """A file that does not exist fails the start at once, and the error names its variable."""
        error = await start_error(tls_server.tls_url(), **{field: "/nowhere.pem"})

        assert error.startswith(f"GATEWAY_REDIS__{field.upper()}: '/nowhere.pem' cannot be read")


class TestRenewal:
    async def test_wrong_server_renews_all(self, redis_server: RedisServer) -> None:
        """A rejected write closes the idle connections at once, and those in use before their next use."""
        async with pool(redis_server.url).open() as redis:
            connections: Any = redis.connection_pool
            used, idle = [await connections.get_connection() for _ in range(2)]
            await connections.release(idle)
            await redis.replicaof("127.0.0.1", "1")
            try:
                with pytest.raises(ReadOnlyError):
                    await redis.set("weather:1", "")
            finally:
                await redis.replicaof("NO", "ONE")
            assert used.is_connected
            before = used.connected_at
            await connections.release(used)
            assert await redis.ping()

            assert used.connected_at > before

    async def test_renewals_are_limited(self, redis_server: RedisServer) -> None:
        """A server that stays read-only does not have each write connect again."""
        async with pool(redis_server.url).open() as redis:
            connections: Any = redis.connection_pool
            connections.renew()
            await redis.ping()
            (connection,) = connections._available_connections
            connected_at = connection.connected_at
            connections.renew()
            await redis.ping()

            assert connection.connected_at == connected_at

    async def test_maximum_age(self, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """A connection that has reached its maximum age is renewed before its next use."""
        async with pool(redis_server.url).open() as redis:
            connections: Any = redis.connection_pool
            (connection,) = connections._available_connections
            connected_at = connection.connected_at
            await redis.ping()
            assert connection.connected_at == connected_at

            monkeypatch.setattr(redis_connections, "MAX_AGE", 0.0)
            await redis.ping()

            assert connection.connected_at > connected_at
