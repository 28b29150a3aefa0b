"""Server probes: the connections that servers report, queried over connections that do not belong to the app.

The drivers are imported only here, and only for the servers that are watched.
"""

import asyncio
import importlib
import socket
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Protocol, Self, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from . import snapshot
from .tcp_table import established

PROBE_TIMEOUT = 5.0

_DEFAULT_PORTS = {
    "postgresql": 5432,
    "redis": 6379,
    "rediss": 6379,
    "amqp": 5672,
    "amqps": 5671,
    "http": 80,
    "https": 443,
}

_CONNECTIONS = """
    SELECT pid, usename AS user, application_name AS name, coalesce(state, 'state unknown') AS state FROM pg_stat_activity
    WHERE coalesce(backend_type, 'client backend') = 'client backend' AND usename IS NOT NULL AND pid <> pg_backend_pid()
"""

T = TypeVar("T")
Address = tuple[str, int]


class ProbeError(Exception):
    """A server cannot be watched. The message is one line, without the password."""


class _Probe(Protocol):
    """Reports the connections of one server, by identity."""

    async def open(self) -> None: ...
    async def connections(self) -> dict[str, str]: ...
    async def close(self) -> None: ...


@contextmanager
def probing(urls: Iterable[str]) -> Iterator[None]:
    """Include the connections that these servers report in every snapshot inside the block.

    Raises:
        ProbeError: a URL is invalid, or a server cannot be queried.
    """
    with ExitStack() as stack:
        for url in urls:
            probe = stack.enter_context(_probe_for(url))
            snapshot.server_probes.append(probe)
            stack.callback(snapshot.server_probes.remove, probe)
        yield


@contextmanager
def _probe_for(url: str) -> Iterator[Callable[[], dict[str, str]]]:
    parts, address = _parse(url)
    name = f"{parts.scheme}://{address[0]}:{address[1]}"
    if parts.scheme not in {"postgresql", "redis", "rediss"}:
        yield _kernel_connections(name, address)
        return
    probe: _Probe = _PostgreSQLProbe(parts, name) if parts.scheme == "postgresql" else _RedisProbe(parts, name)
    with _LoopThread() as thread:

        def call(coro: Coroutine[Any, Any, T]) -> T:
            try:
                return thread.run(coro)
            except ProbeError:
                raise
            except Exception as error:  # noqa: BLE001 - a driver may raise anything
                raise ProbeError(f"--watch {name}: {_without_password(error, parts)}") from None

        call(probe.open())
        try:
            yield lambda: call(probe.connections())
        finally:
            with suppress(ProbeError):
                call(probe.close())


def _parse(url: str) -> tuple[SplitResult, Address]:
    """Split the URL. An error message never quotes it, because the mistake may be in its password."""
    scheme = url.partition(":")[0].partition("+")[0]
    scheme = "postgresql" if scheme == "postgres" else scheme
    try:
        parts = urlsplit(url)._replace(scheme=scheme)
        address = (parts.hostname or "", parts.port or _DEFAULT_PORTS[scheme])
    except (ValueError, KeyError):
        address = ("", 0)
    if not address[0]:
        schemes = ", ".join(f"{scheme}://" for scheme in _DEFAULT_PORTS)
        raise ProbeError(f"--watch takes URLs with a host and an optional port ({schemes}); one of these is different")
    return parts, address


def _without_password(error: Exception, parts: SplitResult) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    for secret in {parts.password or "", unquote(parts.password or "")} - {""}:
        text = text.replace(secret, "***")
    return text


def _kernel_connections(name: str, address: Address) -> Callable[[], dict[str, str]]:
    """Return a probe that reads the kernel's table of connections: AMQP and HTTP offer no such query."""
    try:
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
        socket.create_connection(address, timeout=PROBE_TIMEOUT).close()
    except (OSError, UnicodeError) as error:  # UnicodeError: not a possible host name
        raise ProbeError(f"--watch {name}: {getattr(error, 'strerror', None) or error}") from None
    addresses = {(str(entry[4][0]), entry[4][1]) for entry in found}
    families = {entry[0] for entry in found}
    return lambda: {
        f"{name} {inode}": f"{name} has an established connection with this machine"
        for family in families
        for host, port, inode in established(family)
        if (host, port) in addresses
    }


class _PostgreSQLProbe:
    def __init__(self, parts: SplitResult, name: str) -> None:
        self.name = name
        self._parts = parts
        self._connection: Any = None

    async def open(self) -> None:
        asyncpg = _import_driver("asyncpg", self.name)
        self._connection = await asyncpg.connect(
            host=self._parts.hostname,
            port=self._parts.port or _DEFAULT_PORTS["postgresql"],
            user=unquote(self._parts.username or "") or None,
            password=unquote(self._parts.password or "") or None,
            database=unquote(self._parts.path.lstrip("/")) or None,
            server_settings={"application_name": "faultlab"},
            timeout=PROBE_TIMEOUT,
        )

    async def connections(self) -> dict[str, str]:
        rows = await self._connection.fetch(_CONNECTIONS, timeout=PROBE_TIMEOUT)
        return {
            f"{self.name} {row['pid']}": f"{self.name} reports a connection of user {row['user']}, "
            f"{row['state']}{_client_name(row['name'])}"
            for row in rows
        }

    async def close(self) -> None:
        await self._connection.close(timeout=PROBE_TIMEOUT)


class _RedisProbe:
    def __init__(self, parts: SplitResult, name: str) -> None:
        self.name = name
        self._parts = parts
        self._client: Any = None
        self._client_id = 0

    async def open(self) -> None:
        redis = _import_driver("redis.asyncio", self.name)
        self._client = redis.Redis.from_url(
            self._parts.geturl(),
            single_connection_client=True,
            socket_connect_timeout=PROBE_TIMEOUT,
            socket_timeout=PROBE_TIMEOUT,
            client_name="faultlab",
        )
        self._client_id = await self._client.client_id()

    async def connections(self) -> dict[str, str]:
        return {
            f"{self.name} {client['id']}": f"{self.name} reports a connection of user {client.get('user', 'default')}, "
            f"last command {client['cmd']}{_client_name(client['name'])}"
            for client in await self._client.client_list()
            if int(client["id"]) != self._client_id
        }

    async def close(self) -> None:
        await self._client.aclose()


class _LoopThread:
    """An event loop in a thread of its own, so that queries do not disturb the loop under test."""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faultlab probes", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coro, self._loop).result()


def _client_name(name: str) -> str:
    return f", named {name!r}" if name else ""


def _import_driver(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise ProbeError(f"--watch {name}: that needs `pip install {module.partition('.')[0]}`") from None
