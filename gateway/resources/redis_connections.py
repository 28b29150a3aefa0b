"""The connections to Redis and their pool: any address of the host, TLS as the gateway configures it, and renewal."""

import ssl
import time
from typing import Any

from redis.asyncio import BlockingConnectionPool, Connection, Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from gateway.network.addresses import open_socket
from gateway.resources.redis_errors import leads_to_wrong_server

MAX_AGE = 300.0  # after that, a connection is renewed before its next use: a net for all that no error shows
RENEWAL_INTERVAL = 1.0  # while a server stays read-only, each connection reconnects at most so often


class RacedConnection(Connection):
    """A connection to the first address of the host that accepts it, with TLS if it has a context.

    redis-py tries the addresses one after the other, without a limit for one that does not respond.

    Private API of redis-py: `_connect()` and `_connection_arguments()`, the arguments of `asyncio.open_connection`.
    `tests/resources/test_private_api.py` tests it.

    Attributes:
        connected_at: the time (`time.monotonic()`) at which it began to connect.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.connected_at = 0.0
        self._tls = tls
        self._arguments: dict[str, Any] = {}

    async def _connect(self) -> None:
        self.connected_at = time.monotonic()
        self._arguments = {"sock": await open_socket(self.host, self.port)}
        if self._tls is not None:
            self._arguments |= {"ssl": self._tls, "server_hostname": self.host}
        await super()._connect()  # type: ignore[no-untyped-call]

    def _connection_arguments(self) -> dict[str, Any]:
        return self._arguments


class RenewedPool(BlockingConnectionPool):
    """A pool whose connections can be renewed, and which stays closed.

    redis-py keeps a connection to a server that has become a read-only replica. And its pool connects again when it is used
    after its close; that connection would never be closed.
    """

    closed = False
    renewed_at = 0.0

    def renew(self) -> None:
        """Have each connection that is open now reconnect before its next use, at most once in `RENEWAL_INTERVAL`."""
        now = time.monotonic()
        if now - self.renewed_at < RENEWAL_INTERVAL:
            return
        self.renewed_at = now
        for connection in self._available_connections:
            _close(connection)

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        self._check_open()
        if self._is_outdated(connection):
            await connection.disconnect(nowait=True)
        await super().ensure_connection(connection)
        if self.closed:  # during the connect
            await connection.disconnect(nowait=True)
            self._check_open()

    def abort(self) -> None:
        """Close the transports of all connections immediately, whether they are in use or not."""
        for connection in (*self._available_connections, *self._in_use_connections):
            _close(connection)

    def _is_outdated(self, connection: AbstractConnection) -> bool:
        oldest = max(self.renewed_at, time.monotonic() - MAX_AGE)
        return isinstance(connection, RacedConnection) and connection.connected_at < oldest

    def _check_open(self) -> None:
        if self.closed:
            raise RuntimeError("the Redis pool is not open")


class RenewingRedis(Redis):
    """A client of a `RenewedPool`, which it renews when the server is the wrong one. The error still reaches the caller."""

    connection_pool: RenewedPool

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except RedisError as error:
            if leads_to_wrong_server(error):
                self.connection_pool.renew()
            raise


def _close(connection: AbstractConnection) -> None:
    """Close the transport immediately.

    Private API of redis-py: the public `disconnect()` has to be awaited. `tests/resources/test_private_api.py` tests it.
    """
    if connection._writer is not None:  # noqa: SLF001
        connection._writer.transport.abort()  # noqa: SLF001
        connection._close()  # type: ignore[no-untyped-call]  # noqa: SLF001  # without it: a ResourceWarning
