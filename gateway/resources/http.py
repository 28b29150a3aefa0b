"""The HTTP client. Only this file depends on aiohttp, the transport under httpx, and on its errors."""

import ssl
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from http import HTTPStatus

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from gateway.network.errors import is_network_error
from gateway.network.tls import TLSFiles
from gateway.resources.base import Resource, tls_context
from gateway.settings import HttpSettings, variable_name

MAX_CONNECTIONS = 100  # further requests wait for a free one
DNS_CACHE_TTL = 1  # short, because an upstream that comes back may have a new address
CHECK_INTERVAL = 10.0  # long, because the weather server is a third party's
CHECK_PATH = "/v1/forecast?latitude=0&longitude=0"

_GATEWAY_STATUSES = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)


class TLSHandshakeError(Exception):
    """The upstream and this client do not accept each other. The message has the reason and the variable."""


class HttpClient(Resource[httpx.AsyncClient]):
    """Owns the client of the weather upstream, with its origin as base URL.

    It connects with its first request, and the startup makes none: an unavailable upstream fails a health check, not the
    startup. The client has no timeout, because every caller has a deadline.
    """

    name = "http"

    def __init__(self, settings: HttpSettings, instance: str) -> None:
        super().__init__(settings)
        self.settings = settings
        self._instance = instance
        self._client: httpx.AsyncClient | None = None
        self._connector: aiohttp.TCPConnector | None = None
        self._tls: ssl.SSLContext | None = None
        self._checked_at: float | None = None
        self._last_error: BaseException | None = None

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[httpx.AsyncClient]:
        origin = self.settings.weather_url.get_secret_value()
        # aiohttp has loaded the authorities of the system when it was imported. Loading them again takes 40 ms.
        self._tls = tls_context(self.name, self.settings) if self.settings.tls_files != TLSFiles() else None
        self._client = httpx.AsyncClient(
            # The transport would ignore its own `verify`, because it does not create the session.
            transport=AiohttpTransport(verify=False, client=self._create_session),
            base_url=origin,
            headers={"User-Agent": self._instance},
            timeout=None,  # noqa: S113 - see the docstring of the class
        )
        try:
            yield self._client
        finally:
            try:
                await self._client.aclose()
            finally:
                self.abort()

    def _create_session(self) -> aiohttp.ClientSession:
        """Called by the transport at its first request."""
        self._connector = aiohttp.TCPConnector(
            ssl=self._tls or True, limit=MAX_CONNECTIONS, ttl_dns_cache=DNS_CACHE_TTL
        )
        return aiohttp.ClientSession(connector=self._connector, cookie_jar=aiohttp.DummyCookieJar())

    def abort(self) -> None:
        if self._connector is not None:
            abort_connector(self._connector)

    async def check(self) -> str | None:
        """Send a minimal request: every `CHECK_INTERVAL` seconds, and each time after a failure.

        Raises:
            httpx.HTTPError: no response, or an error status.
            TLSHandshakeError: a certificate is not valid.
        """
        if self._client is None:
            raise RuntimeError("the HTTP client is not open")
        now = time.monotonic()
        if self._checked_at is None or now - self._checked_at >= CHECK_INTERVAL or self._last_error is not None:
            self._checked_at, self._last_error = now, None
            try:
                (await self._client.get(CHECK_PATH)).raise_for_status()
            except BaseException as error:  # a cancellation too, because the deadline of a check cancels it
                self._last_error = error
                if tls_error := _tls_error(error):
                    raise TLSHandshakeError(self._describe(tls_error)) from error
                raise
        return self.settings.location

    def _describe(self, error: ssl.SSLError) -> str:
        if isinstance(error, ssl.SSLCertVerificationError):
            return (
                f"the certificate of {self.settings.location} is not valid: {error.verify_message}: replace it, or set "
                f"{variable_name(self.name, 'ca_file')} to the authority that signed it"
            )
        return f"the TLS handshake with {self.settings.location} failed: {error}"


# httpx-aiohttp reports refused and lost connections as timeouts. Their cause, the error of aiohttp, is the real one.


def is_timeout(error: BaseException) -> bool:
    """Return whether a request failed because the server took too long."""
    return isinstance(error, TimeoutError) or isinstance(error.__cause__, TimeoutError)


def is_connection_refused(error: BaseException) -> bool:
    """Return whether a request failed because no connection could be made."""
    cause = error.__cause__
    return isinstance(cause, aiohttp.ClientConnectorError) and not isinstance(cause, aiohttp.ClientSSLError)


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    """Return the error of TLS behind a failed request. aiohttp's own errors are SSLErrors, too, but without their details."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error if isinstance(error, ssl.SSLError) else None


def is_retryable(error: Exception) -> bool:
    """Return whether the same request may succeed immediately: a connection was lost, or a proxy had no backend."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in _GATEWAY_STATUSES and "Retry-After" not in error.response.headers
    if tls_error := _tls_error(error):
        return is_network_error(tls_error)
    return isinstance(error, httpx.TransportError) and not is_timeout(error)


def is_server_failure(error: Exception) -> bool:
    """Return whether the server fails or limits its clients. A rejection of one request, any other 4xx, is no failure."""
    if isinstance(error, httpx.HTTPStatusError) and error.response.is_client_error:
        return error.response.status_code == HTTPStatus.TOO_MANY_REQUESTS
    return True


def abort_connector(connector: aiohttp.TCPConnector) -> None:
    """Close all connections immediately; TLS connections without a shutdown handshake.

    Private API of aiohttp: the public `close()` has to be awaited. `tests/resources/test_private_api.py` tests it.
    """
    connector._close(abort_ssl=True)  # noqa: SLF001
