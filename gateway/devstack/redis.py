"""A private Redis."""

import secrets
from pathlib import Path

import redis.asyncio as redis

from gateway.devstack import ports
from gateway.devstack.folder import Reporter, silent
from gateway.devstack.server import Server, find_program

DATABASES = 64


class RedisServer(Server):
    """A private Redis with a user `gateway` and 64 databases. Its data survives a SIGKILL."""

    name = "Redis"
    url_variable = "GATEWAY_REDIS__URL"

    def __init__(self, folder: Path, *, report: Reporter = silent, password: str | None = None) -> None:
        """Define a server. Nothing is started. Without a password it gets one of its own."""
        super().__init__(folder, report=report)
        self.password = password or secrets.token_hex(16)

    @property
    def url(self) -> str:
        return self.url_of(0)

    def url_of(self, database: int) -> str:
        """Return the URL of a database, 0 to 63."""
        return f"redis://gateway:{self.password}@{ports.LOOPBACK}:{self.port}/{database}"

    def command(self) -> list[str]:
        return [_program(), str(self.folder / "redis.conf"), "--port", str(self.port)]

    async def prepare(self) -> None:
        _program()  # raises early if it is not installed
        # appendfsync no: data in the page cache survives a kill of the process, and no test cuts the power.
        self.write(
            "redis.conf",
            f"""\
bind {ports.LOOPBACK}
dir {self.folder}
databases {DATABASES}
save ""
appendonly yes
appendfsync no
user default off
user gateway on >{self.password} ~* &* +@all
""",
        )

    async def probe(self) -> bool:
        try:
            async with redis.Redis.from_url(self.url) as client:
                return bool(await client.ping())
        except redis.RedisError:
            return False

    async def clients(self) -> list[str]:
        """Return the name of each connection of user `gateway`, except the connection of this call."""
        async with redis.Redis.from_url(self.url, single_connection_client=True) as client:
            own_id = await client.client_id()
            connections = await client.client_list()
        return sorted(connection["name"] for connection in connections if int(connection["id"]) != own_id)


def _program() -> str:
    return find_program("redis-server", package="redis-server")
