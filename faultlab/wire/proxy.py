"""A TCP proxy that knows the protocol: it breaks a connection at the message that one asks for."""

import asyncio
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from faultlab.wire.amqp import Amqp
from faultlab.wire.connection import ACCEPT, Connection
from faultlab.wire.faults import WireFault
from faultlab.wire.framing import Framer
from faultlab.wire.http import Http
from faultlab.wire.log import WireLog
from faultlab.wire.postgresql import PostgreSQL
from faultlab.wire.redis import Redis

PROTOCOLS: Final[dict[str, Callable[[], Framer]]] = {
    "postgresql": PostgreSQL,
    "redis": Redis,
    "amqp": Amqp,
    "http": Http,
}

_LOOPBACK: Final = "127.0.0.1"
_ACCEPT_POINT: Final = 0


class Proxy:
    """Stands between clients and one server, in the event loop that enters it.

    Messages are numbered per connection from 1, both directions in order of arrival; 0 is the accept itself.
    """

    def __init__(self, name: str, protocol: str, host: str, port: int, *, log: WireLog | None = None) -> None:
        """Listen nowhere yet.

        Args:
            name: what it is called in the log.
            protocol: one of `PROTOCOLS`.
            host: where the real server is.
            port: the same.
            log: where to record, together with other proxies.
        """
        self.name = name
        self.connections: list[Connection] = []
        """All there have been, in order; each with the names of its messages."""
        self.fired: list[str] = []
        """At which message the injected fault has hit: one name for each connection."""
        self._framer = PROTOCOLS[protocol]
        self._target = host, port
        self._log = log
        self._fault: tuple[WireFault, int | str] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._holder: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._listens = False

    @property
    def port(self) -> int:
        """Where it listens, on the loopback interface; the same for its whole life."""
        if self._holder is None:
            raise RuntimeError("the proxy is not entered")
        port: int = self._holder.getsockname()[1]
        return port

    @property
    def open_connections(self) -> list[Connection]:
        """The connections that their client has not let go of."""
        return [connection for connection in self.connections if connection.open_by_client]

    def inject(self, fault: WireFault, *, at: int | str) -> None:
        """From now on let the fault hit every connection at that message, by number or name; those that are open, too."""
        self.fired.clear()
        self._fault = fault, at

    def break_now(self, fault: WireFault) -> None:
        """Let the fault hit every open connection now, and those that come when they are accepted: the server breaks."""
        self.inject(fault, at=_ACCEPT_POINT)
        for connection in self.open_connections:
            self._fires(fault, connection.messages[-1] if connection.messages else ACCEPT)
            connection.apply(fault)

    async def recover(self) -> None:
        """Let no fault hit from now on, and listen again. What is broken stays broken."""
        self._fault = None
        self._listen()

    async def __aenter__(self) -> Self:
        self._holder = socket.socket()
        try:
            self._holder.bind((_LOOPBACK, 0))  # it is ours while nobody listens, too, and nobody else is given it
            self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Named TCP, it passes that on to what it accepts, and asyncio lets nothing wait there (TCP_NODELAY).
            self._listener = socket.socket(proto=socket.IPPROTO_TCP)
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.setblocking(False)
            self._listener.bind((_LOOPBACK, self.port))
            self._listen()
        except BaseException:
            self._close()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        self._refuse()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._close()

    def _close(self) -> None:
        for sock in (self._listener, self._holder):
            if sock is not None:
                sock.close()

    def _listen(self) -> None:
        """Listen, if it does not. It is the same socket each time, so that no ledger sees a new one."""
        if self._listener is not None and not self._listens:
            self._listener.listen()
            asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)
            self._listens = True

    def _refuse(self) -> None:
        """Listen no more: who connects is refused, and who waits to be accepted is reset. The port stays ours."""
        if self._listener is not None and self._listens:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listens = False

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return  # whoever connected has gone again
        client.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._serve(client), name=f"{self.name}, a connection")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: client.close())  # which its transport has done, if there was time to make one

    async def _serve(self, client: socket.socket) -> None:
        ends = await asyncio.open_connection(sock=client)
        number = len(self.connections) + 1
        connection = Connection(number, ends, self._framer(), name=self.name, due=self._due, log=self._log)
        self.connections.append(connection)
        await connection.run(*self._target)

    def _due(self, number: int, name: str) -> WireFault | None:
        """Which fault hits a connection at this message, if any."""
        if self._fault is None:
            return None
        fault, at = self._fault
        if at not in (number, name):
            return None
        self._fires(fault, name)
        return fault

    def _fires(self, fault: WireFault, name: str) -> None:
        self.fired.append(name)
        if fault is WireFault.REFUSE:
            self._refuse()
