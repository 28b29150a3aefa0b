"""All the servers that the gateway needs, entered through one `AsyncExitStack`."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.devstack import reaper
from gateway.devstack.folder import Reporter, silent, temporary_data_dir
from gateway.devstack.postgresql import PostgreSQLServer
from gateway.devstack.rabbitmq import RabbitMQServer
from gateway.devstack.redis import RedisServer
from gateway.devstack.server import DevstackError, Server
from gateway.devstack.weather import WeatherServer


@dataclass(frozen=True, kw_only=True)
class Devstack:
    """The servers of one stack, all up."""

    folder: Path
    weather: WeatherServer
    postgresql: PostgreSQLServer
    redis: RedisServer
    rabbitmq: RabbitMQServer

    def environment(self) -> dict[str, str]:
        """The variables that make a gateway use them, and end with them, should it outlive us."""
        return {
            reaper.MARKER: str(self.folder),
            "GATEWAY_HTTP__WEATHER_URL": self.weather.url,
            "GATEWAY_DATABASE__URL": self.postgresql.url,
            "GATEWAY_REDIS__URL": self.redis.url,
            "GATEWAY_RABBITMQ__URL": self.rabbitmq.url,
        }


@asynccontextmanager
async def devstack(*, report: Reporter = silent) -> AsyncIterator[Devstack]:
    """Start all servers at once; stop them in reverse of the order in which they came up.

    Raises:
        DevstackError: one of them cannot be had, or several; none is left running.
    """
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(temporary_data_dir(report=report))
        servers = Devstack(
            folder=folder,
            weather=WeatherServer(folder / "weather", report=report),
            postgresql=PostgreSQLServer(folder / "postgresql", report=report),
            redis=RedisServer(folder / "redis", report=report),
            rabbitmq=RabbitMQServer(folder / "rabbitmq", report=report),
        )
        await enter_together(stack, [servers.weather, servers.postgresql, servers.redis, servers.rabbitmq])
        yield servers


async def enter_together(stack: AsyncExitStack, servers: Iterable[Server]) -> None:
    """Enter the servers concurrently; each is on the stack as soon as it is up, so that any failure gives it back."""
    try:
        async with asyncio.TaskGroup() as starting:
            for server in servers:
                starting.create_task(stack.enter_async_context(server))
    except BaseExceptionGroup as group:
        failures, others = group.split(DevstackError)
        if failures is None or others is not None:
            raise
        raise DevstackError("\n".join(map(str, failures.exceptions))) from None
