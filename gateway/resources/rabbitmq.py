"""The RabbitMQ connection."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import aiormq
from aio_pika import Channel, RobustConnection
from aio_pika.abc import AbstractChannel
from aio_pika.connection import make_url
from aio_pika.exceptions import AMQPError, AuthenticationError

from gateway.network.amqp_url import AMQPOptions, amqp_options
from gateway.network.errors import is_network_error
from gateway.resources.base import DegradedError, PermanentError, Resource, retry_transient, tls_context
from gateway.resources.broker_transport import ACCESS_REFUSED, BrokerTransports, ClosedByBrokerError
from gateway.settings import RabbitMQSettings

RECONNECT_INTERVAL = 0.5  # short, because closing may wait as long
CONNECT_TIMEOUT = 5.0  # for the transport and the AMQP handshake, also when it reconnects
CLOSE_TIMEOUT = 0.5  # how long the user of a channel waits for its close
MAX_QUEUED_MESSAGES = 1000  # more than the relay publishes together

# With aiormq's default of ten, each further message of a batch takes an iteration of the event loop and a packet of its own.
# tests/resources/test_private_api.py tests it.
aiormq.Connection.FRAME_BUFFER_SIZE = MAX_QUEUED_MESSAGES


def is_transient(error: Exception) -> bool:
    """Return whether the error may go away without a change: refused, no such name yet, closed while starting up."""
    return is_network_error(error)


class BrokerConnection(RobustConnection):
    """A connection that reconnects automatically, and keeps the broker's reports about it.

    It is not connected yet. `connect_robust()` would return only once it is.
    """

    def __init__(self, url: str, transports: BrokerTransports, *, name: str, heartbeat: int) -> None:
        super().__init__(make_url(url, name=name, heartbeat=heartbeat, reconnect_interval=RECONNECT_INTERVAL))
        # Undocumented: aio-pika passes it on to aiormq. tests/resources/test_private_api.py tests it.
        self.kwargs["transport_factory"] = transports
        self._transports = transports
        self._closing_channels: set[asyncio.Task[None]] = set()
        self.close_callbacks.add(self._on_closed)

    def __del__(self) -> None:
        """Do nothing. `RabbitMQConnection` has closed or aborted it. The inherited finalizer would close it in a new task."""

    def _on_closed(self, _: object, error: BaseException | None) -> None:
        """Keep the error, also of a failed attempt to connect."""
        if isinstance(error, TimeoutError) and not str(error):
            error = TimeoutError(f"no response within {CONNECT_TIMEOUT:.3g} s")
        if isinstance(error, Exception):
            self._transports.on_failed_attempt(error)

    async def close_channel(self, channel: AbstractChannel) -> None:
        """Close the channel, and wait at most `CLOSE_TIMEOUT`. Ignore a lost connection.

        The close of a channel is never cancelled: aiormq would send the request a second time, and the broker would close the
        whole connection. If it takes longer, it ends in the background. The broker reads it after an alarm.
        """
        closing = asyncio.create_task(_close(channel))
        self._closing_channels.add(closing)
        closing.add_done_callback(self._closing_channels.discard)
        if self.blocked is None:
            await asyncio.wait([closing], timeout=CLOSE_TIMEOUT)

    async def close(self, exc: aiormq.abc.ExceptionType | None = asyncio.CancelledError) -> None:
        """Close the connection, and then what is left of the close of its channels."""
        await super().close(exc)
        if self._closing_channels:
            for closing in self._closing_channels:
                closing.cancel()
            await asyncio.wait(self._closing_channels)

    @property
    def last_error(self) -> Exception | None:
        """The reason why there is no connection, if it is known."""
        return self._transports.last_error

    @property
    def blocked(self) -> str | None:
        """The reason of the alarm that blocks this connection, or None. The broker then reads nothing from it."""
        return self._transports.blocked


async def _close(channel: AbstractChannel) -> None:
    with suppress(AMQPError, OSError, RuntimeError):
        await channel.close()


@dataclass(frozen=True, slots=True)
class RabbitMQ:
    """The connection. Each of its users opens channels of its own."""

    connection: BrokerConnection


class RabbitMQConnection(Resource[RabbitMQ]):
    """Owns the connection, and tracks every transport that it opens.

    aio-pika connects in a separate task, and a cancelled `connect_robust()` leaks that task and its socket. So the
    connection object is created here, and is closed whatever `connect()` does. One leak is left: a transport whose
    handshake ends in the loop iteration of the cancellation. `abort()` closes it.
    """

    name = "rabbitmq"

    def __init__(
        self,
        settings: RabbitMQSettings,
        instance: str,
        *,
        verify: Callable[[BrokerConnection], Awaitable[None]] | None = None,
    ) -> None:
        """Connect nothing yet.

        Args:
            settings: the URL and the files for TLS.
            instance: the name of the connection.
            verify: called with each connection of the startup. It raises `PermanentError` if the broker does not permit
                what this process needs.
        """
        super().__init__(settings)
        self.settings = settings
        self._instance = instance
        self._verify = verify
        self._options = AMQPOptions()
        self._transports = BrokerTransports()
        self._rabbitmq: RabbitMQ | None = None

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[RabbitMQ]:
        url = self.settings.url.get_secret_value()
        self._options = amqp_options(url)
        if url.startswith("amqps:"):
            self._transports = BrokerTransports(tls_context(self.name, self.settings, verify=self._options.verify))
        try:
            self._rabbitmq = await retry_transient(self._connect, is_transient=is_transient)
            try:
                yield self._rabbitmq
            finally:
                await self._rabbitmq.connection.close()
        finally:
            self.abort()

    async def _connect(self) -> RabbitMQ:
        """Connect and verify.

        Raises:
            PermanentError: a retry would not help.
            OSError: the broker is unavailable, or has closed the connection for a reason that may go away.
        """
        connection = BrokerConnection(
            self.settings.url.get_secret_value(),
            self._transports,
            name=self._instance,
            heartbeat=self._options.heartbeat,
        )
        try:
            await connection.connect(timeout=CONNECT_TIMEOUT)
            if self._verify is not None:
                await self._verify(connection)
        except BaseException as error:
            await connection.close()
            self.abort()
            if isinstance(error, Exception):
                self._raise_explained(error)
            raise
        return RabbitMQ(connection)

    def _raise_explained(self, error: Exception) -> None:
        """Raise an error with the broker's own text, the time limit or advice, if there is any."""
        reported = self._transports.last_error
        cause = reported if isinstance(reported, ClosedByBrokerError | TimeoutError) else error
        message = self._permanent_error_message(cause)
        if message is not None:
            raise PermanentError(message) from error
        if cause is not error:
            raise cause from error

    def _permanent_error_message(self, error: Exception) -> str | None:
        """Return the advice for an error that a retry would not fix, or None."""
        url, server = "GATEWAY_RABBITMQ__URL", f"the server at {self.settings.location}"
        if isinstance(error, ClosedByBrokerError) and error.is_permanent:
            advice = (
                "correct user or password in the URL"
                if error.reply_code == ACCESS_REFUSED
                else "create the virtual host and permit the user to access it, or correct the URL"
            )
            return f"{url}: {server} rejects the connection: {error}: {advice}"
        if isinstance(error, AuthenticationError):
            return f"{url}: {server} does not permit authentication by {self._options.auth!r}: correct its option auth"
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"{url}: the certificate of {server} is not valid: {error.verify_message}: set GATEWAY_RABBITMQ__CA_FILE"
        if isinstance(error, ssl.SSLError) and not is_network_error(error):
            return f"{url}: no TLS with {server}: {error.reason}: correct scheme and port"
        if isinstance(error.__cause__, ssl.SSLError) and not is_network_error(error.__cause__):  # after the handshake
            return (
                f"GATEWAY_RABBITMQ__CERT_FILE: {server} rejects it: {error.__cause__.reason}: set another certificate"
            )
        return None

    def abort(self) -> None:
        self._transports.abort()

    async def check(self) -> str | None:
        """Open and close a channel of its own, because a failing check would close the channel that publishes.

        Raises:
            ConnectionError: the connection is lost. It reconnects in the background.
            DegradedError: an alarm of the broker blocks the connection.
        """
        if self._rabbitmq is None:
            raise RuntimeError("the RabbitMQ connection is not open")
        connection = self._rabbitmq.connection
        if not connection.connected.is_set():
            raise _lost(connection)
        if connection.blocked is not None:
            raise DegradedError(f"blocked by an alarm of the broker: {connection.blocked}")
        channel = Channel(connection)
        try:
            await channel.initialize()
        except RuntimeError as error:  # the connection is lost, and aio-pika has not noticed yet
            raise _lost(connection) from error
        await connection.close_channel(channel)
        return self.settings.location


def _lost(connection: BrokerConnection) -> ConnectionError:
    error = connection.last_error
    reason = f": {str(error) or type(error).__name__}" if error else ""
    return ConnectionError(f"not connected, trying again{reason}")
