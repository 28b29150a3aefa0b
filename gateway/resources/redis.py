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
from gateway.settings import RedisSettings, address

CONNECTIONS = 20
"""The most connections at once; a command beyond them waits for one."""

_PERMANENT = (AuthenticationError, AuthorizationError, ResponseError)


class RedisPool(Resource[Redis]):
    """Owns the client and the pool of connections under it.

    It has no timeout of its own: whoever asks has a deadline, and on Python 3.11 redis-py's can swallow a cancellation.
    """

    name = "redis"

    def __init__(self, settings: RedisSettings, instance: str) -> None:
        super().__init__(settings)
        self.settings = settings
        self._instance = instance
        self._pool: _Pool | None = None

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Redis]:
        pool = self._pool = _Pool.from_url(
            self.settings.url.get_secret_value(),
            max_connections=CONNECTIONS,
            timeout=None,
            client_name=self._instance,
            socket_timeout=None,
            socket_connect_timeout=None,
            retry=Retry(NoBackoff(), 0),
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
        redis = Redis.from_pool(pool)  # closes the pool when it is closed; Redis(connection_pool=...) would not
        try:
            await retry_transient(self._verify, is_transient=_transient)
            yield redis
        finally:
            pool.released = True
            try:
                await redis.aclose()
            finally:
                self.abort()

    async def _verify(self) -> None:
        try:
            await self.check()
        except _PERMANENT as error:
            raise PermanentError(
                f"GATEWAY_REDIS__URL: the server at {address(self.settings.url)} refuses us: {error}: "
                "correct user, password or database number in the URL"
            ) from error

    def abort(self) -> None:
        if self._pool is None:
            return
        for connection in (*self._pool._available_connections, *self._pool._in_use_connections):  # noqa: SLF001
            if connection._writer is not None:  # noqa: SLF001 - there is no public way that does not wait
                connection._writer.transport.abort()  # noqa: SLF001
                connection._close()  # type: ignore[no-untyped-call]  # noqa: SLF001 - or it complains that nobody has closed it

    async def check(self) -> str | None:
        """Ask for a PING."""
        if self._pool is None:
            raise RuntimeError("the Redis pool is not open")
        await Redis(connection_pool=self._pool).ping()
        return address(self.settings.url)


def _transient(error: Exception) -> bool:
    """Whether it may pass by itself: refused, not there yet, loading its data, out of connections."""
    return isinstance(error, RedisError | OSError) and not isinstance(error, InvalidResponse)


class _Pool(BlockingConnectionPool):
    """A pool that stays closed: redis-py's connects again when it is used, and nobody would close that."""

    released = False

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        self._raise_if_released()
        await super().ensure_connection(connection)
        if self.released:  # while it connected
            await connection.disconnect(nowait=True)
            self._raise_if_released()

    def _raise_if_released(self) -> None:
        if self.released:
            raise RuntimeError("the Redis pool is not open")
