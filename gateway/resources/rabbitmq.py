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
from gateway.settings import RabbitMQSettings

RECONNECT_INTERVAL = 0.5  # short, because closing may wait as long
HEARTBEAT = 15  # the connection counts as lost after three missed heartbeats


def is_transient(error: Exception) -> bool:
    """Return whether the error may go away without a change: refused, no such name yet, closed while starting up."""
    return isinstance(error, OSError)


@dataclass(frozen=True, slots=True)
class RabbitMQ:
    """A connection that reconnects automatically.

    Attributes:
        connection: for the workers, which open their own channels.
        channel: with publisher confirms; raises if no queue takes a message.
    """

    connection: RobustConnection
    channel: AbstractRobustChannel


class RabbitMQConnection(Resource[RabbitMQ]):
    """Owns the connection, and tracks every transport that it opens.

    aio-pika connects in a separate task, and a cancelled `connect_robust()` leaks that task and its socket. So the
    connection object is created here, and is closed whatever `connect()` does. One leak is left: a transport whose
    handshake ends in the loop iteration of the cancellation. `abort()` closes it.
    """

    name = "rabbitmq"

    def __init__(self, settings: RabbitMQSettings, instance: str) -> None:
        super().__init__(settings)
        self.settings = settings
        self._instance = instance
        self._transports = TrackingTransportFactory()
        self._rabbitmq: RabbitMQ | None = None

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[RabbitMQ]:
        try:
            self._rabbitmq = await retry_transient(self._connect, is_transient=is_transient)
            try:
                yield self._rabbitmq
            finally:
                await self._rabbitmq.connection.close()
        finally:
            self.abort()

    async def _connect(self) -> RabbitMQ:
        connection = robust_connection(self.settings.url.get_secret_value(), self._transports, name=self._instance)
        try:
            await connection.connect()
            channel = connection.channel(publisher_confirms=True, on_return_raises=True)
            await channel.initialize()
        except BaseException as error:
            await connection.close()
            self.abort()
            message = self._permanent_error_message(error)
            if message is not None:
                raise PermanentError(f"GATEWAY_RABBITMQ__URL: {message}") from error
            raise
        return RabbitMQ(connection, channel)

    def _permanent_error_message(self, error: BaseException) -> str | None:
        """Return the advice for an error that a retry would not fix, or None."""
        server = f"the server at {self.settings.location}"
        if isinstance(error, AuthenticationError | ProbableAuthenticationError):
            return f"{server} rejects this user or password: correct them in the URL"
        if is_vhost_rejected(error):
            return f"{server} has no such virtual host, or this user has no access to it: create it, or correct the URL"
        return None

    def abort(self) -> None:
        self._transports.abort()

    async def check(self) -> str | None:
        """Open and close a channel of its own, because a failing check would close the channel that publishes.

        Raises:
            ConnectionError: the connection is lost. It reconnects in the background.
        """
        if self._rabbitmq is None:
            raise RuntimeError("the RabbitMQ connection is not open")
        if not self._rabbitmq.connection.connected.is_set():
            raise ConnectionError("not connected, trying again")
        async with self._rabbitmq.connection.channel():
            pass
        return self.settings.location


class TrackingTransportFactory(TransportFactory):
    """Opens transports as aiormq does, and keeps track of them, so that `abort()` can close all of them."""

    def __init__(self) -> None:
        self._transports: WeakSet[asyncio.WriteTransport] = WeakSet()

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        factory = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        reader, writer = await factory.create(url, **kwargs)
        self._transports.add(writer.transport)
        return reader, writer

    def abort(self) -> None:
        for transport in tuple(self._transports):
            transport.abort()


# Undocumented API of aio-pika and aiormq; tests/resources/test_private_api.py and tests/pitfalls test it.


def robust_connection(url: str, transport_factory: TransportFactory, *, name: str) -> RobustConnection:
    """Return a connection that is not connected yet, and that opens its transports with `transport_factory`.

    `connect_robust()` has a public argument for the factory, but returns only once it is connected.
    """
    connection = RobustConnection(make_url(url, name=name, heartbeat=HEARTBEAT, reconnect_interval=RECONNECT_INTERVAL))
    connection.kwargs["transport_factory"] = transport_factory
    return connection


def is_vhost_rejected(error: BaseException) -> bool:
    """Return whether the broker closed the connection instead of opening it.

    The broker sends the reason, an unknown virtual host or no access to it. aio-pika does not report that reason, and
    complains that it received another frame than `Connection.OpenOk`.
    """
    return isinstance(error, InvalidFrameError) and "Connection.OpenOk" in str(error)
