"""The HTTP client. The one file that knows which transport is under httpx, and what that raises."""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from http import HTTPStatus

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from gateway.resources.base import Resource
from gateway.settings import HttpSettings, host_and_port

CONNECTIONS = 100
"""The most connections at once; a request beyond them waits for one."""

REMEMBER_ADDRESS = 1
"""Seconds for which a name is not looked up again: a server that comes back may have another address."""

ASK_EVERY = 10.0
"""Seconds between two questions of the health check: the weather server is somebody else's."""

PROBE = "/v1/forecast?latitude=0&longitude=0"

_NOBODY_TO_ASK = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)


class HttpClient(Resource[httpx.AsyncClient]):
    """Owns the client of the weather upstream, with its origin as base URL.

    It opens no connection before the first request, and none is made to verify it: that the upstream is out of reach is
    a health finding, not a failed startup. It has no timeout of its own: whoever asks has a deadline.
    """

    name = "http"

    def __init__(self, settings: HttpSettings, instance: str) -> None:
        super().__init__(settings)
        self.settings = settings
        self._instance = instance
        self._client: httpx.AsyncClient | None = None
        self._connector: aiohttp.TCPConnector | None = None
        self._asked: float | None = None
        self._finding: BaseException | None = None

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[httpx.AsyncClient]:
        origin = self.settings.weather_url.get_secret_value()
        # Only an upstream that has a certificate makes it worth the 40 ms that reading the authorities takes.
        transport = AiohttpTransport(verify=origin.startswith("https:"), client=self._session)
        self._client = httpx.AsyncClient(
            transport=transport,
            base_url=origin,
            headers={"User-Agent": self._instance},
            timeout=None,  # noqa: S113 - see above
        )
        try:
            yield self._client
        finally:
            try:
                await self._client.aclose()
            finally:
                self.abort()

    def _session(self) -> aiohttp.ClientSession:
        """What the transport calls at its first request."""
        self._connector = aiohttp.TCPConnector(limit=CONNECTIONS, ttl_dns_cache=REMEMBER_ADDRESS)
        return aiohttp.ClientSession(connector=self._connector, cookie_jar=aiohttp.DummyCookieJar())

    def abort(self) -> None:
        if self._connector is not None:
            self._connector._close(abort_ssl=True)  # noqa: SLF001 - its public close() has to be awaited

    async def check(self) -> str | None:
        """Ask the upstream for the least that it answers: every `ASK_EVERY` seconds, and each time after a failure.

        Raises:
            httpx.HTTPError: it did not answer, or not with success.
        """
        if self._client is None:
            raise RuntimeError("the HTTP client is not open")
        now = time.monotonic()
        if self._asked is None or now - self._asked >= ASK_EVERY or self._finding is not None:
            self._asked, self._finding = now, None
            try:
                (await self._client.get(PROBE)).raise_for_status()
            except BaseException as error:  # a cancellation too: that is how a deadline looks from in here
                self._finding = error
                raise
        return host_and_port(self.settings.weather_url)


# The transport under httpx calls a refused and a lost connection a timeout, too: what aiohttp said is behind it.


def is_timeout(error: BaseException) -> bool:
    """Whether a request failed because the server took too long."""
    return isinstance(error, TimeoutError) or isinstance(error.__cause__, TimeoutError)


def is_connection_refused(error: BaseException) -> bool:
    """Whether a request failed because there was nobody to connect to."""
    cause = error.__cause__
    return isinstance(cause, aiohttp.ClientConnectorError) and not isinstance(cause, aiohttp.ClientSSLError)


def is_retryable(error: Exception) -> bool:
    """Whether the same question may well be answered at once: a connection was lost, or a proxy had nobody to ask."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in _NOBODY_TO_ASK and "Retry-After" not in error.response.headers
    return isinstance(error, httpx.TransportError) and not is_timeout(error)


def is_server_failure(error: Exception) -> bool:
    """Whether the server is in trouble, or tells us to leave it alone; not whether it only refused what it was asked."""
    if isinstance(error, httpx.HTTPStatusError) and error.response.is_client_error:
        return error.response.status_code == HTTPStatus.TOO_MANY_REQUESTS
    return True
