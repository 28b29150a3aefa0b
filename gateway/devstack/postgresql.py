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
    """A private PostgreSQL with a role `gateway` and a database of that role, also called `gateway`."""

    name = "PostgreSQL"
    url_variable = "GATEWAY_DATABASE__URL"
    stop_signal = signal.SIGINT  # a fast shutdown, which does not wait for clients
    settings: ClassVar[dict[str, str]] = _SETTINGS

    def __init__(self, folder: Path, *, report: Reporter = silent) -> None:
        super().__init__(folder, report=report)
        self.password = secrets.token_hex(16)  # of the role `gateway`
        self.superuser_password = secrets.token_hex(16)

    @property
    def url(self) -> str:
        return self.url_of("gateway")

    def url_of(self, database: str) -> str:
        """Return the URL of another database."""
        return f"postgresql+asyncpg://gateway:{self.password}@{ports.LOOPBACK}:{self.port}/{database}"

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
            await connection.execute(f"CREATE ROLE gateway LOGIN PASSWORD '{self.password}'")
        await self.create_database("gateway")

    @asynccontextmanager
    async def superuser(self, database: str = "postgres") -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        """Open a connection of the superuser, for statements that the role `gateway` may not execute."""
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
        """Create a database of role `gateway`, and return its URL. The template must have no open connection."""
        async with self.superuser() as connection:
            await connection.execute(f'CREATE DATABASE "{name}" OWNER gateway TEMPLATE "{template}"')
        return self.url_of(name)

    async def drop_database(self, name: str) -> None:
        """Drop a database and close its connections."""
        async with self.superuser() as connection:
            await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    async def clients(self) -> list[str]:
        """Return the `application_name` of each connection of role `gateway`."""
        async with self.superuser() as connection:
            rows = await connection.fetch(
                "SELECT application_name FROM pg_stat_activity WHERE usename = 'gateway' ORDER BY application_name"
            )
        return [row["application_name"] for row in rows]


def find_postgresql_program(name: str) -> str:
    """Find a program of the newest PostgreSQL that is installed."""
    versions = sorted(
        Path("/usr/lib/postgresql").glob("[0-9]*/bin"), key=lambda path: float(path.parent.name), reverse=True
    )
    return find_program(name, package="postgresql", folders=versions)
