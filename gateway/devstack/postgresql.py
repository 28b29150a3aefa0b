"""A private PostgreSQL."""

import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

import asyncpg

from gateway.devstack import ports
from gateway.devstack.folder import Reporter, silent
from gateway.devstack.server import Server, find_program

RUNTIME_ROLE = "gateway"  # of the gateway and the worker: has rights on tables, and owns nothing
OWNER_ROLE = "gateway_owner"  # of the databases, for `migrate` and `seed`

_SETTINGS = {
    "listen_addresses": ports.LOOPBACK,
    "unix_socket_directories": "",  # the path of a temporary folder may exceed the 107 characters of a socket's path
    "max_connections": "200",
    "shared_buffers": "32MB",
    "dynamic_shared_memory_type": "mmap",  # files in the data folder; those in /dev/shm would survive a SIGKILL
    "timezone": "UTC",
    # Committed data survives a SIGKILL of the server. It need not survive a power loss: the folder is temporary.
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}


class PostgreSQLServer(Server):
    """A private PostgreSQL with a database `gateway`, the role that owns it, and the role that serves from it."""

    name = "PostgreSQL"
    url_variable = "GATEWAY_DATABASE__URL"
    stop_signal = signal.SIGINT  # a fast shutdown, which does not wait for clients
    settings: ClassVar[dict[str, str]] = _SETTINGS

    def __init__(self, folder: Path, *, report: Reporter = silent) -> None:
        super().__init__(folder, report=report)
        self.password = secrets.token_hex(16)  # of the runtime role
        self.owner_password = secrets.token_hex(16)
        self.superuser_password = secrets.token_hex(16)

    @property
    def url(self) -> str:
        return self.url_of("gateway")

    @property
    def owner_url(self) -> str:
        """The URL for `migrate` and `seed`."""
        return self.owner_url_of("gateway")

    def url_of(self, database: str) -> str:
        """Return the URL of another database, for the gateway and the worker."""
        return self._url(RUNTIME_ROLE, self.password, database)

    def owner_url_of(self, database: str) -> str:
        """Return the URL of another database, for its owner."""
        return self._url(OWNER_ROLE, self.owner_password, database)

    def _url(self, role: str, password: str, database: str) -> str:
        return f"postgresql+asyncpg://{role}:{password}@{ports.LOOPBACK}:{self.port}/{database}"

    def command(self) -> list[str]:
        settings = [f"--{name}={value}" for name, value in self.settings.items()]
        return [find_postgresql_program("postgres"), "-D", str(self.folder / "data"), "-p", str(self.port), *settings]

    async def prepare(self) -> None:
        initdb = find_postgresql_program("initdb")
        find_postgresql_program("postgres")  # raises early if it is not installed
        password = self.write("password", self.superuser_password)
        await self.run(
            initdb,
            f"--pgdata={self.folder / 'data'}",
            "--username=postgres",
            f"--pwfile={password}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
            "--no-instructions",
        )
        password.unlink()

    async def probe(self) -> bool:
        try:
            async with self.superuser() as connection:
                return bool(await connection.fetchval("SELECT true"))
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False

    async def initialize(self) -> None:
        async with self.superuser() as connection:
            await connection.execute(f"CREATE ROLE {RUNTIME_ROLE} LOGIN PASSWORD '{self.password}'")
            await connection.execute(f"CREATE ROLE {OWNER_ROLE} LOGIN PASSWORD '{self.owner_password}'")
            await connection.execute(f"GRANT pg_read_all_stats TO {OWNER_ROLE}")
        await self.create_database("gateway")

    @asynccontextmanager
    async def superuser(self, database: str = "postgres") -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        """Open a connection of the superuser, for statements that no other role may execute."""
        connection = await asyncpg.connect(
            host=ports.LOOPBACK,
            port=self.port,
            user="postgres",
            password=self.superuser_password,
            database=database,
            ssl=False,
            server_settings={"application_name": "devstack"},
        )
        try:
            yield connection
        finally:
            await connection.close(timeout=2)

    async def create_database(self, name: str, *, template: str = "template1") -> str:
        """Create a database, and return the URL of its owner. The template must have no open connection.

        The rights on its tables are those of the template.
        """
        async with self.superuser() as connection:
            await connection.execute(f'CREATE DATABASE "{name}" OWNER {OWNER_ROLE} TEMPLATE "{template}"')
            await connection.execute(f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC')
            await connection.execute(f'GRANT CONNECT ON DATABASE "{name}" TO {RUNTIME_ROLE}')
        return self.owner_url_of(name)

    async def drop_database(self, name: str) -> None:
        """Drop a database and close its connections."""
        async with self.superuser() as connection:
            await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    async def clients(self) -> list[str]:
        """Return the `application_name` of each connection of the runtime role and of the owner."""
        async with self.superuser() as connection:
            rows = await connection.fetch(
                "SELECT application_name FROM pg_stat_activity WHERE usename IN ($1, $2) ORDER BY application_name",
                RUNTIME_ROLE,
                OWNER_ROLE,
            )
        return [row["application_name"] for row in rows]


def find_postgresql_program(name: str) -> str:
    """Find a program of the newest PostgreSQL that is installed."""
    versions = sorted(
        Path("/usr/lib/postgresql").glob("[0-9]*/bin"), key=lambda path: float(path.parent.name), reverse=True
    )
    return find_program(name, package="postgresql", folders=versions)
