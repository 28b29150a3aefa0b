"""Connections to PostgreSQL: TLS, names with several addresses, options of the URL, and the errors for an operator."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from sqlalchemy import text

from gateway.devstack.postgresql import PostgreSQLServer
from gateway.network.addresses import ATTEMPT_DELAY
from gateway.schema.connect import ConnectError, Connector
from gateway.schema.transaction import transaction
from tests.support.certificates import Certificates
from tests.support.dead_address import DEAD, dead_address, resolve_to
from tests.support.postgresql_tls import tls_enabled

TLS_NAME = "elsewhere.example"  # the only name in the certificate `misnamed_server`

UNREADABLE = "/" + "x" * 300  # too long for a name: nothing below it can be opened, not even by root


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection: asyncpg.Connection = await Connector(url, application_name="test").connect(
        connect_timeout=10, command_timeout=10
    )
    try:
        yield connection
    finally:
        await connection.close(timeout=2)


async def error_of(url: str) -> ConnectError:
    """Return the error of a connect that an operator has to solve."""
    with pytest.raises(ConnectError) as caught:
        async with connected(url):
            pass
    assert "\n" not in str(caught.value)
    return caught.value


async def is_encrypted(connection: asyncpg.Connection) -> bool:
    return bool(await connection.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"))


class TestTLS:
    @pytest.fixture
    async def url(self, postgresql_server: PostgreSQLServer, certificates: Certificates) -> AsyncIterator[str]:
        """The URL of a server that offers TLS, by its name."""
        async with tls_enabled(postgresql_server, certificates.server, client_ca_file=certificates.ca_file):
            yield postgresql_server.url.replace("127.0.0.1", "localhost")

    @pytest.mark.parametrize("query", ["ssl=require", "sslrootcert={ca}", "ssl=verify-ca&sslrootcert={ca}"])
    async def test_encrypts(self, url: str, certificates: Certificates, query: str) -> None:
        """Each mode but `disable` uses TLS. A file of authorities alone is enough to enable it."""
        async with connected(f"{url}?{query.format(ca=certificates.ca_file)}") as connection:
            assert await is_encrypted(connection)

    async def test_off_by_default(self, url: str) -> None:
        """Without an option the connection does not use TLS, even if the server offers it."""
        async with connected(url) as connection:
            assert not await is_encrypted(connection)

    async def test_client_certificate(self, url: str, certificates: Certificates) -> None:
        """The certificate of the client is sent to the server."""
        client = certificates.client
        query = f"sslrootcert={certificates.ca_file}&sslcert={client.cert_file}&sslkey={client.key_file}"
        async with connected(f"{url}?{query}") as connection:
            name = await connection.fetchval("SELECT client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()")

        assert name is not None
        assert "CN=gateway" in name

    async def test_home_is_not_read(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The home directory does not matter, even if no file in it can be opened."""
        monkeypatch.setenv("HOME", UNREADABLE)
        async with connected(f"{url}?ssl=require") as connection:
            assert await is_encrypted(connection)

    async def test_unknown_authority(self, url: str, certificates: Certificates) -> None:
        """A certificate of another authority is reported at once."""
        error = await error_of(f"{url}?sslrootcert={certificates.other_ca_file}")

        assert "has a certificate that is not valid here: " in str(error)
        assert error.field == "ca_file"

    async def test_unknown_authority_is_accepted(self, url: str) -> None:
        """Without authorities, `require` encrypts and does not verify, as libpq does."""
        async with connected(f"{url}?sslmode=require") as connection:
            assert await is_encrypted(connection)

    async def test_require_with_authorities_verifies(self, url: str, certificates: Certificates) -> None:
        """With authorities, `require` verifies the certificate, as libpq does."""
        error = await error_of(f"{url}?ssl=require&sslrootcert={certificates.other_ca_file}")

        assert "not valid here" in str(error)

    async def test_untrusted_client(self, url: str, certificates: Certificates) -> None:
        """A client certificate that the server rejects ends the attempt with an error, not with a hang."""
        client = certificates.untrusted_client
        with pytest.raises((ConnectError, OSError, asyncpg.PostgresError)):
            async with connected(f"{url}?ssl=require&sslcert={client.cert_file}&sslkey={client.key_file}"):
                pass


async def test_expired_certificate(postgresql_server: PostgreSQLServer, certificates: Certificates) -> None:
    """An expired certificate is reported at once, with the reason."""
    async with tls_enabled(postgresql_server, certificates.expired_server):
        error = await error_of(f"{postgresql_server.url}?sslrootcert={certificates.ca_file}")

    assert "certificate has expired" in str(error)


async def test_name_of_certificate(
    postgresql_server: PostgreSQLServer, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The certificate must have the name in the URL, whatever address is connected to. `verify-ca` ignores the name."""
    ca = f"sslrootcert={certificates.ca_file}"
    named = postgresql_server.url.replace("127.0.0.1", TLS_NAME)
    async with tls_enabled(postgresql_server, certificates.misnamed_server):
        error = await error_of(f"{postgresql_server.url}?{ca}")
        async with connected(f"{postgresql_server.url}?{ca}&ssl=verify-ca") as connection:
            assert await is_encrypted(connection)
        resolve_to(monkeypatch, postgresql_server.port, "127.0.0.1", "127.0.0.1")
        async with connected(f"{named}?{ca}") as connection:
            assert await is_encrypted(connection)

    assert "IP address mismatch" in str(error)


async def test_server_without_tls(postgresql_server: PostgreSQLServer) -> None:
    """A server without TLS is reported at once."""
    error = await error_of(f"{postgresql_server.url}?ssl=require")

    assert f"127.0.0.1:{postgresql_server.port} does not offer TLS" in str(error)


@pytest.mark.parametrize("option", ["sslrootcert", "sslcert"])
def test_missing_file(option: str) -> None:
    """A missing file is named before anything is connected."""
    with pytest.raises(ConnectError, match="'/nowhere' cannot be read: no such file or directory"):
        Connector(f"postgresql+asyncpg://host?{option}=/nowhere", application_name="test")


def test_key_without_certificate() -> None:
    """A private key without its certificate would be ignored."""
    with pytest.raises(ConnectError, match="'/key' is a private key without a certificate") as caught:
        Connector("postgresql+asyncpg://host?sslkey=/key", application_name="test")

    assert caught.value.field == "key_file"


class TestAddresses:
    @pytest.mark.parametrize("addresses", [(DEAD, "127.0.0.1"), ("127.0.0.1", DEAD)], ids=["dead first", "dead last"])
    async def test_dead_address(
        self, postgresql_server: PostgreSQLServer, monkeypatch: pytest.MonkeyPatch, addresses: tuple[str, ...]
    ) -> None:
        """An address that does not respond costs a fraction of a second."""
        resolve_to(monkeypatch, postgresql_server.port, *addresses)
        started_at = time.monotonic()
        with dead_address(postgresql_server.port):
            async with transaction(postgresql_server.url.replace("127.0.0.1", "a-name"), application_name="test") as it:
                assert await it.scalar(text("SELECT 1")) == 1

        assert time.monotonic() - started_at < 2 * ATTEMPT_DELAY + 2

    async def test_timeout(self, postgresql_server: PostgreSQLServer) -> None:
        """The timeout of the URL limits an attempt whose only address is dead."""
        started_at = time.monotonic()
        with dead_address(postgresql_server.port), pytest.raises(TimeoutError):
            async with connected(f"postgresql+asyncpg://{DEAD}:{postgresql_server.port}/x?connect_timeout=0.2"):
                pass

        assert time.monotonic() - started_at < 2


class TestOptions:
    async def test_command_timeout(self, postgresql_server: PostgreSQLServer) -> None:
        """The option is a number of seconds for each statement."""
        async with connected(f"{postgresql_server.url}?command_timeout=0.1") as connection:
            with pytest.raises(TimeoutError):
                await connection.execute("SELECT pg_sleep(60)")

    async def test_command_timeout_of_a_migration(self, postgresql_server: PostgreSQLServer) -> None:
        """A migration has no limit: the option is meant for the short statements of the gateway."""
        url = f"{postgresql_server.url}?command_timeout=0.1"
        async with transaction(url, application_name="test") as connection:
            await connection.execute(text("SELECT pg_sleep(0.3)"))

    async def test_session(self, postgresql_server: PostgreSQLServer) -> None:
        """`application_name` and `options` are those of the session."""
        query = "application_name=mine&options=-c%20search_path%3Dpg_temp"
        async with connected(f"{postgresql_server.url}?{query}") as connection:
            assert await connection.fetchval("SHOW application_name") == "mine"
            assert await connection.fetchval("SHOW search_path") == "pg_temp"

    async def test_target_session_attrs(self, postgresql_server: PostgreSQLServer) -> None:
        """A server of another kind than the option requests is rejected, and may become that kind."""
        with pytest.raises(asyncpg.TargetServerAttributeNotMatched):
            async with connected(f"{postgresql_server.url}?target_session_attrs=standby"):
                pass

    @pytest.mark.parametrize(
        "query", ["prepared_statements=none", "statement_cache_size=0", "prepared_statement_cache_size=0"]
    )
    async def test_no_prepared_statements(self, postgresql_server: PostgreSQLServer, query: str) -> None:
        """No statement has a name in the session, whether SQLAlchemy or asyncpg executes it."""
        async with transaction(f"{postgresql_server.url}?{query}", application_name="test") as connection:
            await connection.execute(text("SELECT 1"))
            raw = (await connection.get_raw_connection()).driver_connection
            assert raw is not None
            await raw.fetch("SELECT 2")
            assert await connection.scalar(text("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''")) == 0


class TestRejections:
    async def test_wrong_password(self, postgresql_server: PostgreSQLServer) -> None:
        """The message has no password."""
        error = await error_of(f"postgresql+asyncpg://gateway:hunter2@127.0.0.1:{postgresql_server.port}/gateway")

        assert str(error).endswith("rejects this user or password: correct them in the URL")
        assert "hunter2" not in str(error)

    async def test_unknown_database(self, postgresql_server: PostgreSQLServer) -> None:
        """The message says what to do."""
        error = await error_of(postgresql_server.url_of("nowhere"))

        assert str(error).endswith("has no such database: create it, or correct the name in the URL")
