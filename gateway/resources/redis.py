"""The Redis pool."""

import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import InvalidResponse, RedisError
from redis.maint_notifications import MaintNotificationsConfig

from gateway.lifecycle import format_error
from gateway.resources.base import DegradedError, PermanentError, Resource, retry_transient, tls_context
from gateway.resources.redis_connections import RacedConnection, RenewedPool, RenewingRedis
from gateway.resources.redis_errors import is_transient, permanent_cause
from gateway.resources.redis_probe import UnsuitableServerError, probe
from gateway.settings import RedisSettings, variable_name

MAX_CONNECTIONS = 20  # further commands wait for a free one

log = structlog.get_logger("gateway.redis")


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
        self._pool: RenewedPool | None = None

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Redis]:
        url = self.settings.parsed_url
        pool = self._pool = RenewedPool(
            connection_class=RacedConnection,
            max_connections=MAX_CONNECTIONS,
            timeout=None,
            host=url.host,
            port=url.port,
            username=url.username,
            password=url.password,
            db=url.database,
            protocol=url.protocol,
            tls=self._tls_context(),
            client_name=self._instance,
            driver_info=None,  # it would need one more right
            socket_timeout=None,
            socket_connect_timeout=None,
            retry=Retry(NoBackoff(), 0),
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
        redis = RenewingRedis.from_pool(pool)  # closes the pool when it is closed; Redis(connection_pool=...) does not
        try:
            await retry_transient(self._verify, is_transient=is_transient)
            yield redis
        finally:
            pool.closed = True
            try:
                await redis.aclose()
            finally:
                self.abort()

    def _tls_context(self) -> ssl.SSLContext | None:
        url = self.settings.parsed_url
        if not url.tls:
            return None
        return tls_context(self.name, self.settings, verify=url.verify, check_hostname=url.check_hostname)

    async def _verify(self) -> None:
        """Check the server. One that accepts no writes has to do for now: the briefs need only what they read.

        Raises:
            PermanentError: a retry would not help.
        """
        server = f"{variable_name(self.name, 'url')}: the server at {self.settings.location}"
        try:
            await self.check()
        except DegradedError as error:
            log.warning("redis works only in part", error=format_error(error))
        except UnsuitableServerError as error:
            raise PermanentError(f"{server}: {error}") from error
        except RedisError as error:
            if (cause := permanent_cause(error)) is not None:
                raise PermanentError(
                    f"{server} cannot be used: {format_error(cause)}: correct its certificate, the URL, "
                    f"{variable_name(self.name, 'ca_file')} or {variable_name(self.name, 'cert_file')}"
                ) from error
            if not is_transient(error) and not isinstance(error, InvalidResponse):
                raise PermanentError(
                    f"{server} rejects the connection: {error}: correct user, password or database number in the URL"
                ) from error
            raise

    def abort(self) -> None:
        if self._pool is not None:
            self._pool.abort()

    async def check(self) -> str | None:
        """Write and read what the work needs (see `probe`).

        Raises:
            UnsuitableServerError: an operator has to change the server.
            DegradedError: the server accepts no writes.
            RedisError: it is unavailable.
        """
        if self._pool is None:
            raise RuntimeError("the Redis pool is not open")
        await probe(RenewingRedis(connection_pool=self._pool))
        return self.settings.location
