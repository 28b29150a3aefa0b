"""Connections to the database: one way from the URL to asyncpg, for serving, migrating and seeding."""

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from gateway.network.addresses import reachable_address
from gateway.network.database_url import DatabaseURL, parse_database_url
from gateway.network.errors import is_network_error
from gateway.network.tls import TLSFileError, client_context, fix_server_name

C = TypeVar("C", bound=asyncpg.Connection)

_POOLER_PARAMETERS = {"application_name", "timezone"}  # PgBouncer sets them on each session that it lends to a client
_DRIVER_OPTIONS = {
    "max_cacheable_statement_size",
    "max_cached_statement_lifetime",
    "statement_cache_size",
    "target_session_attrs",
}
_NO_DATABASE = re.compile("no such database|database .* does not exist")
# PgBouncer 1.20 and later permit some options.
_UNSUPPORTED_OPTIONS = re.compile("unsupported startup parameter(: options$| in options: )")
_NO_TLS = "rejected SSL upgrade"  # asyncpg has no class for it


class ConnectError(Exception):
    """An operator has to change something: a retry would not help. The message has the reason and no secret.

    Attributes:
        field: the field of `DatabaseSettings` to correct.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Connector:
    """Opens connections to the database of a URL. The constructor reads the files for TLS, once for all connections."""

    def __init__(
        self, url: str, *, application_name: str, session_parameters: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Prepare to connect.

        Args:
            url: of the database, with the options that `DatabaseOptions` lists.
            application_name: the name of the connections, unless the URL has one.
            session_parameters: parameters of PostgreSQL for each session. Behind a connection pooler only the time zone is
                set: poolers reject most of the others, because their clients share sessions.

        Raises:
            ConnectError: a file for TLS cannot be used.
            ValueError: the URL is invalid.
        """
        self._url = parse_database_url(url)
        options = self._url.options
        sizes = (options.statement_cache_size, options.prepared_statement_cache_size)
        self._prepared_statements = "none" if 0 in sizes else options.prepared_statements
        parameters = {"application_name": options.application_name or application_name, **session_parameters}
        if self.has_pooler:
            parameters = {name: value for name, value in parameters.items() if name in _POOLER_PARAMETERS}
        if options.options is not None:
            parameters["options"] = options.options
        self._arguments: dict[str, Any] = {
            "port": self._url.port,
            "user": self._url.user,
            "password": self._url.password,
            "database": self._url.database,
            "ssl": _tls_context(self._url) or False,
            "server_settings": parameters,
            **options.model_dump(include=_DRIVER_OPTIONS, exclude_none=True),
        }
        if self._prepared_statements == "none":
            self._arguments["statement_cache_size"] = 0

    @property
    def has_pooler(self) -> bool:
        """True if the server is a connection pooler, whose clients share sessions."""
        return self._prepared_statements is not None

    async def connect(
        self,
        *,
        connect_timeout: float,
        command_timeout: float | None = None,
        connection_class: type[C] = asyncpg.Connection,  # type: ignore[assignment]  # mypy has no default for a type variable
    ) -> C:
        """Open a connection, to the first address of the host that accepts it.

        Args:
            connect_timeout: seconds for all of it, unless the URL has an option.
            command_timeout: seconds for each statement, unless the URL has an option. None for no limit at all.
            connection_class: the class of the connection.

        Raises:
            ConnectError: a retry would not help.
            OSError, asyncpg.PostgresError: the server is unavailable, or rejects the connection for another reason.
        """
        options = self._url.options
        timeout = options.connect_timeout or connect_timeout
        try:
            async with asyncio.timeout(timeout):
                # The IP address, and not the name: the driver would try one address after the other, without a timeout for
                # each. It also sends its cancellations of statements there.
                address = await reachable_address(self._url.host, self._url.port)
                connection: C = await asyncpg.connect(
                    host=address,
                    timeout=timeout,
                    command_timeout=command_timeout and (options.command_timeout or command_timeout),
                    connection_class=connection_class,
                    **self._arguments,
                )
        except OSError as error:
            if explained := _explain_os_error(error, self._url):
                raise explained from error
            raise
        except asyncpg.PostgresError as error:
            if explained := _explain_rejection(error, self._url):
                raise explained from error
            raise
        return connection

    def create_engine(self, connect: Callable[[], Awaitable[asyncpg.Connection]], **options: Any) -> AsyncEngine:
        """Return an engine that opens its connections with `connect()`, which calls `self.connect`.

        Its URL has no credentials.
        """
        arguments: dict[str, Any] = {"async_creator_fn": lambda **_: connect()}
        size = 0 if self._prepared_statements == "none" else self._url.options.prepared_statement_cache_size
        if size is not None:
            arguments["prepared_statement_cache_size"] = size
        url = URL.create("postgresql+asyncpg", host=self._url.host, port=self._url.port, database=self._url.database)
        return create_async_engine(url, connect_args=arguments, hide_parameters=True, **options)


def _tls_context(url: DatabaseURL) -> ssl.SSLContext | None:
    """Return the context for TLS, or None without TLS.

    asyncpg would make its own from a mode, with the files in `~/.postgresql`.

    Raises:
        ConnectError: a file cannot be used.
    """
    options = url.options
    if not options.uses_tls:
        return None
    verify = options.ssl != "require" or options.sslrootcert is not None
    check_hostname = options.ssl in {None, "verify-full"}
    try:
        context = client_context(options.tls_files, verify=verify, check_hostname=check_hostname)
    except TLSFileError as error:
        raise ConnectError(error.field, str(error)) from error
    fix_server_name(context, url.host)
    return context


def _explain_rejection(error: asyncpg.PostgresError, url: DatabaseURL) -> ConnectError | None:
    """Return the error for an operator, or None if a retry may help."""
    server, reason = f"the server at {url.location}", str(error)
    is_pooler = isinstance(error, asyncpg.ProtocolViolationError)  # PgBouncer uses its code for most rejections
    if isinstance(error, asyncpg.InvalidPasswordError) or (is_pooler and "authentication failed" in reason):
        return ConnectError("url", f"{server} rejects this user or password: correct them in the URL")
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        return ConnectError("url", f"{server} rejects this user or password or this kind of connection: {reason}")
    if isinstance(error, asyncpg.InvalidCatalogNameError) or (is_pooler and _NO_DATABASE.search(reason)):
        return ConnectError("url", f"{server} has no such database: create it, or correct the name in the URL")
    if is_pooler and _UNSUPPORTED_OPTIONS.search(reason):
        return ConnectError(
            "url", f"{server} is a connection pooler, which does not support the option 'options': remove it"
        )
    if is_pooler and "unsupported startup parameter" in reason:
        return ConnectError(
            "prepared_statements",
            f"{server} is a connection pooler ({reason}): set GATEWAY_DATABASE__PREPARED_STATEMENTS to none, or to named "
            "if the pooler supports prepared statements",
        )
    return None


def _explain_os_error(error: OSError, url: DatabaseURL) -> ConnectError | None:
    """Return the error for an operator, or None if a retry may help."""
    server = f"the server at {url.location}"
    match error:
        case ssl.SSLCertVerificationError():
            return ConnectError("ca_file", f"{server} has a certificate that is not valid here: {error.verify_message}")
        case ConnectionError() if _NO_TLS in str(error):
            return ConnectError("url", f"{server} does not offer TLS: enable it there, or change the option ssl")
        case _ if is_network_error(error):
            return None
        case ssl.SSLError():
            return ConnectError("url", f"{server} cannot be used: the TLS handshake failed: {error.reason}")
    return ConnectError("url", f"{server} cannot be used: {(error.strerror or str(error)).lower()}")
