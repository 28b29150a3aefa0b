"""A primary and its standby behind one address, which moves from one to the other."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import asyncpg

from faultlab.wire import Proxy
from gateway.devstack import ports
from gateway.devstack.replication import PrimaryServer, StandbyServer
from tests.support.waiting import wait_until


class Database(Protocol):
    """A database whose state can be queried: a single server, or a `ReplicatedDatabase`."""

    def superuser(
        self, database: str = "postgres"
    ) -> "AbstractAsyncContextManager[asyncpg.Connection[asyncpg.Record]]": ...


class ReplicatedDatabase:
    """Two servers of PostgreSQL: one accepts writes, the other follows it.

    Attributes:
        primary: the server that accepts writes.
        standby: the server that follows it.
        address: the proxy whose address the gateway has.
    """

    def __init__(self, primary: PrimaryServer, standby: PrimaryServer, address: Proxy) -> None:
        self.primary = primary
        self.standby = standby
        self.address = address

    @property
    def url(self) -> str:
        """The URL for the gateway, which leads to the current target of the address."""
        return self.primary.url.replace(f":{self.primary.port}/", f":{self.address.port}/")

    def superuser(
        self, database: str = "postgres"
    ) -> "AbstractAsyncContextManager[asyncpg.Connection[asyncpg.Record]]":
        """Open a connection of the superuser to the server that accepts writes."""
        return self.primary.superuser(database)

    @asynccontextmanager
    async def switched_over(self) -> AsyncIterator[None]:
        """Exchange the roles of the servers. Inside the block, the address leads to the old primary, now a standby."""
        await wait_until(self.primary.has_streaming_standby, "the standby has received everything")
        await self.primary.stop()
        await self.standby.promote()
        self.primary.demote(self.standby)
        await self.primary.start()
        self.primary, self.standby = self.standby, self.primary
        yield
        self.address.target = ports.LOOPBACK, self.primary.port

    @asynccontextmanager
    async def killed(self) -> AsyncIterator[None]:
        async with self.primary.killed():
            yield

    @asynccontextmanager
    async def suspended(self) -> AsyncIterator[None]:
        with self.primary.suspended():
            yield


@asynccontextmanager
async def replicated_database(folder: Path) -> AsyncIterator[ReplicatedDatabase]:
    """Start both servers in a folder that belongs to a devstack."""
    async with (
        PrimaryServer(folder / "primary") as primary,
        StandbyServer(folder / "standby", primary) as standby,
        Proxy("postgresql", "postgresql", ports.LOOPBACK, primary.port) as address,
    ):
        yield ReplicatedDatabase(primary, standby, address)
