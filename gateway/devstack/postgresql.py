"""A private PostgreSQL."""

import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from gateway.devstack import ports
from gateway.devstack.folder import Reporter, silent
from gateway.devstack.server import Server, find_program

_SETTINGS = {
    "listen_addresses": ports.LOOPBACK,
    "unix_socket_directories": "",  # none: a socket's path may have 107 characters, and a temporary folder's is long
    "max_connections": "200",
    "shared_buffers": "32MB",
    "dynamic_shared_memory_type": "mmap",  # in the data folder, not in /dev/shm, where it would outlive a SIGKILL
    "timezone": "UTC",
    # What was committed survives a SIGKILL of the server, not the machine's loss of power: nothing outlives the stack.
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}


class PostgreSQLServer(Server):
    """A private PostgreSQL with a role `gateway` and a database of that role, also called `gateway`."""

    name = "PostgreSQL"
    stop_signal = signal.SIGINT  # "fast": it does not wait for its clients

    def __init__(self, folder: Path, *, report: Reporter = silent) -> None:
        super().__init__(folder, report=report)
        self._password = secrets.token_hex(16)
        self._superuser_password = secrets.token_hex(16)

    @property
    def url(self) -> str:
        return self.url_of("gateway")

    def url_of(self, database: str) -> str:
        """The URL of another database."""
        return f"postgresql+asyncpg://gateway:{self._password}@{ports.LOOPBACK}:{self.port}/{database}"

    def command(self) -> list[str]:
        settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
        return [_program("postgres"), "-D", str(self.folder / "data"), "-p", str(self.port), *settings]

    async def prepare(self) -> None:
        initdb = _program("initdb")
        _program("postgres")  # missing: say so before anything is made
        password = self.write("password", self._superuser_password)
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
            await connection.execute(f"CREATE ROLE gateway LOGIN PASSWORD '{self._password}'")
        await self.create_database("gateway")

    @asynccontextmanager
    async def superuser(self, database: str = "postgres") -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        """A connection of the superuser, for what the role `gateway` may not do."""
        connection = await asyncpg.connect(
            host=ports.LOOPBACK,
            port=self.port,
            user="postgres",
            password=self._superuser_password,
            database=database,
            ssl=False,
            server_settings={"application_name": "devstack"},
        )
        try:
            yield connection
        finally:
            await connection.close(timeout=2)

    async def create_database(self, name: str, *, template: str = "template1") -> str:
        """Make a database of role `gateway`, a copy of another one that nobody is connected to; return its URL."""
        async with self.superuser() as connection:
            await connection.execute(f'CREATE DATABASE "{name}" OWNER gateway TEMPLATE "{template}"')
        return self.url_of(name)

    async def drop_database(self, name: str) -> None:
        """Drop a database, its connections too."""
        async with self.superuser() as connection:
            await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    async def clients(self) -> list[str]:
        """The `application_name` of each connection of role `gateway`."""
        async with self.superuser() as connection:
            rows = await connection.fetch(
                "SELECT application_name FROM pg_stat_activity WHERE usename = 'gateway' ORDER BY application_name"
            )
        return [row["application_name"] for row in rows]


def _program(name: str) -> str:
    versions = sorted(
        Path("/usr/lib/postgresql").glob("[0-9]*/bin"), key=lambda path: float(path.parent.name), reverse=True
    )
    return find_program(name, package="postgresql", folders=versions)
