"""What servers say that they hold: asked before and after each case, over a connection that is not the app's.

The drivers are imported here only, and only for the servers that are watched.
"""

import asyncio
import importlib
import socket
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Self, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from faultlab import snapshot
from faultlab.tcp_table import established

ANSWER_WITHIN = 5.0
"""Seconds that a server may take to answer."""

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


class WatchError(Exception):
    """A server that cannot be watched, in one line without a password."""


@contextmanager
def watched(urls: Iterable[str]) -> Iterator[None]:
    """Within the block, every ledger asks these servers, too.

    Raises:
        WatchError: an URL is wrong, or a server cannot be asked.
    """
    with ExitStack() as stack:
        for url in urls:
            ask = stack.enter_context(_witness(url))
            snapshot.server_probes.append(ask)
            stack.callback(snapshot.server_probes.remove, ask)
        yield


@contextmanager
def _witness(url: str) -> Iterator[Callable[[], dict[str, str]]]:
    parts, address = _parsed(url)
    name = f"{parts.scheme}://{address[0]}:{address[1]}"
    if parts.scheme not in {"postgresql", "redis", "rediss"}:
        yield _kernel(name, address)
        return
    witness = _PostgreSQL(parts, name) if parts.scheme == "postgresql" else _Redis(parts, name)
    with _Thread() as thread:

        def asked(question: Coroutine[Any, Any, T]) -> T:
            try:
                return thread.run(question)
            except WatchError:
                raise
            except Exception as error:  # noqa: BLE001 - drivers raise whatever they like
                raise WatchError(f"--watch {name}: {_without_password(error, parts)}") from None

        asked(witness.open())
        try:
            yield lambda: asked(witness.ask())
        finally:
            with suppress(WatchError):
                asked(witness.close())


def _parsed(url: str) -> tuple[SplitResult, tuple[str, int]]:
    """Take an URL apart. It is never shown: what is wrong with it may be in its password."""
    scheme = url.partition(":")[0].partition("+")[0]
    scheme = "postgresql" if scheme == "postgres" else scheme
    try:
        parts = urlsplit(url)._replace(scheme=scheme)
        address = (parts.hostname or "", parts.port or _DEFAULT_PORTS[scheme])
    except (ValueError, KeyError):
        address = ("", 0)
    if not address[0]:
        known = ", ".join(f"{scheme}://" for scheme in _DEFAULT_PORTS)
        raise WatchError(f"--watch takes URLs with a host (and a port): {known}; one of these is none, or another kind")
    return parts, address


def _without_password(error: Exception, parts: SplitResult) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    for secret in {parts.password or "", unquote(parts.password or "")} - {""}:
        text = text.replace(secret, "***")
    return text


def _kernel(name: str, address: tuple[str, int]) -> Callable[[], dict[str, str]]:
    """Ask no server, but the kernel who is connected to one: AMQP and HTTP have no question for that."""
    try:
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
        socket.create_connection(address, timeout=ANSWER_WITHIN).close()
    except (OSError, UnicodeError) as error:  # the latter if it can be no host's name
        raise WatchError(f"--watch {name}: {getattr(error, 'strerror', None) or error}") from None
    addresses = {(str(entry[4][0]), entry[4][1]) for entry in found}
    families = {entry[0] for entry in found}
    return lambda: {
        f"{name} {inode}": f"{name} has an established connection with this machine"
        for family in families
        for host, port, inode in established(family)
        if (host, port) in addresses
    }


class _PostgreSQL:
    def __init__(self, parts: SplitResult, name: str) -> None:
        self.name = name
        self._parts = parts
        self._connection: Any = None

    async def open(self) -> None:
        asyncpg = _driver("asyncpg", self.name)
        self._connection = await asyncpg.connect(
            host=self._parts.hostname,
            port=self._parts.port or _DEFAULT_PORTS["postgresql"],
            user=unquote(self._parts.username or "") or None,
            password=unquote(self._parts.password or "") or None,
            database=unquote(self._parts.path.lstrip("/")) or None,
            server_settings={"application_name": "faultlab"},
            timeout=ANSWER_WITHIN,
        )

    async def ask(self) -> dict[str, str]:
        rows = await self._connection.fetch(_CONNECTIONS, timeout=ANSWER_WITHIN)
        return {
            f"{self.name} {row['pid']}": f"{self.name} holds a connection of {row['user']}, {row['state']}{_named(row['name'])}"
            for row in rows
        }

    async def close(self) -> None:
        await self._connection.close(timeout=ANSWER_WITHIN)


class _Redis:
    def __init__(self, parts: SplitResult, name: str) -> None:
        self.name = name
        self._parts = parts
        self._client: Any = None
        self._me = 0

    async def open(self) -> None:
        redis = _driver("redis.asyncio", self.name)
        self._client = redis.Redis.from_url(
            self._parts.geturl(),
            single_connection_client=True,
            socket_connect_timeout=ANSWER_WITHIN,
            socket_timeout=ANSWER_WITHIN,
            client_name="faultlab",
        )
        self._me = await self._client.client_id()

    async def ask(self) -> dict[str, str]:
        return {
            f"{self.name} {client['id']}": f"{self.name} holds a connection of {client.get('user', 'default')}, "
            f"last command {client['cmd']}{_named(client['name'])}"
            for client in await self._client.client_list()
            if int(client["id"]) != self._me
        }

    async def close(self) -> None:
        await self._client.aclose()


class _Thread:
    """An event loop in a thread of its own: what is asked there does not disturb the loop that is examined."""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faultlab watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, question: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(question, self._loop).result()


def _named(name: str) -> str:
    return f", named {name!r}" if name else ""


def _driver(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise WatchError(f"--watch {name}: that needs `pip install {module.partition('.')[0]}`") from None
