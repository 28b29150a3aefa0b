"""A private Redis."""

import secrets
from pathlib import Path

import redis.asyncio as redis

from gateway.devstack import ports
from gateway.devstack.folder import Reporter, silent
from gateway.devstack.server import Server, find_program

DATABASES = 64


class RedisServer(Server):
    """A private Redis with a user `gateway` and 64 databases; what it has stored survives a SIGKILL."""

    name = "Redis"

    def __init__(self, folder: Path, *, report: Reporter = silent) -> None:
        super().__init__(folder, report=report)
        self._password = secrets.token_hex(16)

    @property
    def url(self) -> str:
        return self.url_of(0)

    def url_of(self, database: int) -> str:
        """The URL of the database with a number below 64."""
        return f"redis://gateway:{self._password}@{ports.LOOPBACK}:{self.port}/{database}"

    def command(self) -> list[str]:
        return [_program(), str(self.folder / "redis.conf"), "--port", str(self.port)]

    async def prepare(self) -> None:
        _program()  # missing: say so before anything is made
        # Written at once and synced by the system when it likes: as good as our being killed needs.
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
user gateway on >{self._password} ~* &* +@all
""",
        )

    async def probe(self) -> bool:
        try:
            async with redis.Redis.from_url(self.url) as client:
                return bool(await client.ping())
        except redis.RedisError:
            return False

    async def clients(self) -> list[str]:
        """The name of each connection of user `gateway`, without the one that asks."""
        async with redis.Redis.from_url(self.url, single_connection_client=True) as client:
            me = await client.client_id()
            connections = await client.client_list()
        return sorted(connection["name"] for connection in connections if int(connection["id"]) != me)


def _program() -> str:
    return find_program("redis-server", package="redis-server")
