"""All servers of the gateway, entered through one `AsyncExitStack`."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeVar

from gateway.devstack import reaper
from gateway.devstack.folder import Reporter, silent, temporary_data_dir
from gateway.devstack.postgresql import PostgreSQLServer
from gateway.devstack.rabbitmq import RabbitMQServer
from gateway.devstack.redis import RedisServer
from gateway.devstack.server import DevstackError, Server
from gateway.devstack.weather import WeatherServer

S = TypeVar("S", bound=Server)


class Devstack:
    """The servers of one stack.

    Attributes:
        folder: the parent of the servers' folders.
        by_name: all servers; the names are those of the attributes.
    """

    def __init__(self, folder: Path, *, report: Reporter = silent) -> None:
        """Define the servers. Nothing is started."""
        self.folder = folder
        self.by_name: dict[str, Server] = {}

        def add(name: str, kind: type[S]) -> S:
            server = kind(folder / name, report=report)
            self.by_name[name] = server
            return server

        self.weather = add("weather", WeatherServer)
        self.postgresql = add("postgresql", PostgreSQLServer)
        self.redis = add("redis", RedisServer)
        self.rabbitmq = add("rabbitmq", RabbitMQServer)

    def environment(self) -> dict[str, str]:
        """Return the variables of a gateway: the URLs, and the marker, so that its process is killed with the stack."""
        urls = {server.url_variable: server.url for server in self.by_name.values()}
        return {reaper.MARKER: str(self.folder)} | urls


@asynccontextmanager
async def devstack(*, report: Reporter = silent) -> AsyncIterator[Devstack]:
    """Start all servers concurrently; stop them in the reverse of the order in which they became ready.

    Raises:
        DevstackError: at least one server is not available. None is left running.
    """
    async with AsyncExitStack() as stack:
        servers = Devstack(stack.enter_context(temporary_data_dir(report=report)), report=report)
        await enter_concurrently(stack, servers.by_name.values())
        yield servers


async def enter_concurrently(stack: AsyncExitStack, servers: Iterable[Server]) -> None:
    """Enter the servers concurrently. Each is on the stack as soon as it is ready, so a later failure stops it, too.

    Raises:
        DevstackError: at least one server is not available; the message has a part for each.
    """
    try:
        async with asyncio.TaskGroup() as starting:
            for server in servers:
                starting.create_task(stack.enter_async_context(server))
    except BaseExceptionGroup as group:
        failures, others = group.split(DevstackError)
        if failures is None or others is not None:
            raise
        raise DevstackError("\n".join(map(str, failures.exceptions))) from None
