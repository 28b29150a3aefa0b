"""A private PgBouncer in front of a private PostgreSQL."""

import re
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from gateway.devstack import ports
from gateway.devstack.postgresql import PostgreSQLServer
from gateway.devstack.server import Server, find_program

DEFAULT_POOL_SIZE = 4


class PgBouncerServer(Server):
    """A PgBouncer with four connections for each database of a PostgreSQL. It does not translate prepared statements."""

    name = "PgBouncer"
    url_variable = "GATEWAY_DATABASE__URL"

    def __init__(self, folder: Path, postgresql: PostgreSQLServer, *, pool_mode: str = "transaction") -> None:
        super().__init__(folder)
        self._pool_mode = pool_mode
        self._postgresql = postgresql
        self._without_prepared_statements = ""
        self._credentials = [urlsplit(url) for url in (postgresql.url, postgresql.owner_url)]

    @property
    def url(self) -> str:
        return self.url_of("gateway")

    def url_of(self, database: str) -> str:
        """Return the URL of a database."""
        return self._through_pooler(self._postgresql.url_of(database))

    def owner_url_of(self, database: str) -> str:
        """Return the URL of a database for its owner."""
        return self._through_pooler(self._postgresql.owner_url_of(database))

    def _through_pooler(self, url: str) -> str:
        return url.replace(f":{self._postgresql.port}/", f":{self.port}/")

    def command(self) -> list[str]:
        # The port is known only now. PgBouncer takes it from its configuration only.
        config = self.folder / "pgbouncer.ini"
        config.unlink(missing_ok=True)
        self.write(
            config.name,
            f"""\
[databases]
* = host={ports.LOOPBACK} port={self._postgresql.port}
[pgbouncer]
listen_addr = {ports.LOOPBACK}
listen_port = {self.port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {self.folder / "userlist.txt"}
pool_mode = {self._pool_mode}
default_pool_size = {DEFAULT_POOL_SIZE}
{self._without_prepared_statements}
""",
        )
        return [_program(), str(config)]

    async def prepare(self) -> None:
        printed = await self.run(_program(), "--version")
        version = re.match(r"PgBouncer (\d+)\.(\d+)", printed)
        assert version, printed
        # Versions before 1.21 reject the setting; since 1.24, its default is 200.
        if tuple(map(int, version.groups())) >= (1, 21):
            self._without_prepared_statements = "max_prepared_statements = 0"
        users = [f'"{url.username}" "{url.password}"\n' for url in self._credentials]
        self.write("userlist.txt", "".join(users))
        async with self._postgresql.superuser() as superuser:
            await superuser.execute(
                f'ALTER ROLE "{self._credentials[0].username}" SET jit = off'
            )  # see docs/database.md

    async def probe(self) -> bool:
        try:
            connection = await asyncpg.connect(self.url.replace("+asyncpg", ""), ssl=False, statement_cache_size=0)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        await connection.close(timeout=1)
        return True


def _program() -> str:
    return find_program("pgbouncer", package="pgbouncer")


@pytest.fixture(scope="module")
async def pgbouncer(postgresql_server: PostgreSQLServer, devstack_folder: Path) -> AsyncIterator[PgBouncerServer]:
    """A PgBouncer of the module that imports this fixture."""
    async with PgBouncerServer(devstack_folder / f"pgbouncer-{secrets.token_hex(4)}", postgresql_server) as server:
        yield server
