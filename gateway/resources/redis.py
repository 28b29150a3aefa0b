"""The Redis pool."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    InvalidResponse,
    RedisError,
    ResponseError,
)
from redis.maint_notifications import MaintNotificationsConfig

from gateway.resources.base import PermanentError, Resource, retry_transient
from gateway.settings import RedisSettings

MAX_CONNECTIONS = 20  # further commands wait for a free one

_PERMANENT_ERRORS = (AuthenticationError, AuthorizationError, ResponseError)


def is_transient(error: Exception) -> bool:
    """Return whether the error may go away without a change: refused, no such name yet, loading, too many clients."""
    return is_unavailable(error) and not isinstance(error, InvalidResponse)


def is_unavailable(error: Exception) -> bool:
    """Return whether the caller should try again later."""
    return isinstance(error, RedisError | OSError)


class RedisPool(Resource[Redis]):
    """Owns the client and its connection pool.

    The client has no timeout, because every caller has a deadline, and because a timeout of redis-py can swallow a
    cancellation on Python 3.11.
    """

    name = "redis"

    def __init__(self, settings: RedisSettings, instance: str) -> None:
        super().__init__(settings)
        self.settings = settings
        self._instance = instance
        self._pool: _ClosablePool | None = None

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Redis]:
        pool = self._pool = _ClosablePool.from_url(
            self.settings.url.get_secret_value(),
            max_connections=MAX_CONNECTIONS,
            timeout=None,
            client_name=self._instance,
            socket_timeout=None,
            socket_connect_timeout=None,
            retry=Retry(NoBackoff(), 0),
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
        redis = Redis.from_pool(pool)  # closes the pool when it is closed; Redis(connection_pool=...) does not
        try:
            await retry_transient(self._verify, is_transient=is_transient)
            yield redis
        finally:
            pool.closed = True
            try:
                await redis.aclose()
            finally:
                self.abort()

    async def _verify(self) -> None:
        try:
            await self.check()
        except _PERMANENT_ERRORS as error:
            raise PermanentError(
                f"GATEWAY_REDIS__URL: the server at {self.settings.location} rejects the connection: {error}: "
                "correct user, password or database number in the URL"
            ) from error

    def abort(self) -> None:
        if self._pool is not None:
            abort_connections(self._pool)

    async def check(self) -> str | None:
        """Send a PING."""
        if self._pool is None:
            raise RuntimeError("the Redis pool is not open")
        await Redis(connection_pool=self._pool).ping()
        return self.settings.location


class _ClosablePool(BlockingConnectionPool):
    """A pool that stays closed. redis-py's pool connects again when it is used, and that connection is never closed."""

    closed = False

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        self._check_open()
        await super().ensure_connection(connection)
        if self.closed:  # during the connect
            await connection.disconnect(nowait=True)
            self._check_open()

    def _check_open(self) -> None:
        if self.closed:
            raise RuntimeError("the Redis pool is not open")


def abort_connections(pool: BlockingConnectionPool) -> None:
    """Close the transports of all connections of the pool immediately, whether they are in use or not.

    Private API of redis-py: the public `disconnect()` has to be awaited. `tests/resources/test_private_api.py` tests it.
    """
    for connection in (*pool._available_connections, *pool._in_use_connections):  # noqa: SLF001
        if connection._writer is not None:  # noqa: SLF001
            connection._writer.transport.abort()  # noqa: SLF001
            connection._close()  # type: ignore[no-untyped-call]  # noqa: SLF001  # without it: a ResourceWarning
