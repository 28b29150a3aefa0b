"""The RabbitMQ connection."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

from aio_pika import RobustConnection
from aio_pika.abc import AbstractRobustChannel
from aio_pika.connection import make_url
from aio_pika.exceptions import AuthenticationError, InvalidFrameError, ProbableAuthenticationError
from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from yarl import URL

from gateway.resources.base import PermanentError, Resource, retry_transient
from gateway.settings import RabbitMQSettings, host_and_port

RECONNECT_INTERVAL = 0.5
"""Seconds between two attempts to connect again. Closing may wait as long, so it has to be small."""

HEARTBEAT = 15
"""Seconds. After three without a sign of life the connection counts as lost."""


@dataclass(frozen=True, slots=True)
class RabbitMQ:
    """A connection that reconnects by itself, and a channel that confirms what is published or raises."""

    connection: RobustConnection
    channel: AbstractRobustChannel


class RabbitMQConnection(Resource[RabbitMQ]):
    """Owns the connection, and remembers every transport under it.

    aio-pika connects in a task of its own, and a cancelled `connect_robust()` leaves that task and its socket behind for
    good. So the connection is made here and is closed whatever `connect()` does, and `abort()` drops what even that
    leaves: a transport whose handshake ends in the very tick of the cancellation.
    """

    name = "rabbitmq"

    def __init__(self, settings: RabbitMQSettings, instance: str) -> None:
        super().__init__(settings)
        self.settings = settings
        self._instance = instance
        self._transports = _Transports()
        self._opened: RabbitMQ | None = None

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[RabbitMQ]:
        try:
            self._opened = await retry_transient(self._connect, is_transient=_transient)
            try:
                yield self._opened
            finally:
                await self._opened.connection.close()
        finally:
            self.abort()

    async def _connect(self) -> RabbitMQ:
        url = make_url(
            self.settings.url.get_secret_value(),
            name=self._instance,
            heartbeat=HEARTBEAT,
            reconnect_interval=RECONNECT_INTERVAL,
        )
        connection = RobustConnection(url)
        connection.kwargs["transport_factory"] = self._transports
        try:
            await connection.connect()
            channel = connection.channel(publisher_confirms=True, on_return_raises=True)
            await channel.initialize()
        except BaseException as error:
            await connection.close()
            self.abort()
            refusal = self._refusal(error)
            if refusal is not None:
                raise PermanentError(f"GATEWAY_RABBITMQ__URL: {refusal}") from error
            raise
        return RabbitMQ(connection, channel)

    def _refusal(self, error: BaseException) -> str | None:
        """What to say of an error that does not pass by itself."""
        server = f"the server at {host_and_port(self.settings.url)}"
        if isinstance(error, AuthenticationError | ProbableAuthenticationError):
            return f"{server} refuses this user or password: correct them in the URL"
        if isinstance(error, InvalidFrameError) and "Connection.OpenOk" in str(error):
            # The broker said why it closes the connection instead of opening it; the library does not pass that on.
            return f"{server} has no such virtual host, or not for this user: create it, or correct it in the URL"
        return None

    def abort(self) -> None:
        self._transports.abort()

    async def check(self) -> str | None:
        """Open a channel and close it; not the one that publishes, which a check in vain would close.

        Raises:
            ConnectionError: it is away; the connection tries to come back by itself.
        """
        if self._opened is None:
            raise RuntimeError("the RabbitMQ connection is not open")
        if not self._opened.connection.connected.is_set():
            raise ConnectionError("not connected, trying again")
        async with self._opened.connection.channel():
            pass
        return host_and_port(self.settings.url)


def _transient(error: Exception) -> bool:
    """Whether it may pass by itself: refused, no such name yet, closed while it starts up."""
    return isinstance(error, OSError)


class _Transports(TransportFactory):
    """Makes the transports, and remembers them."""

    def __init__(self) -> None:
        self._made: WeakSet[asyncio.WriteTransport] = WeakSet()

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        factory = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        reader, writer = await factory.create(url, **kwargs)
        self._made.add(writer.transport)
        return reader, writer

    def abort(self) -> None:
        for transport in tuple(self._made):
            transport.abort()
