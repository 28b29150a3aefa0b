"""A TCP proxy that parses its protocol and breaks connections at a given message."""

import asyncio
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from .amqp import AmqpFramer
from .connection import ACCEPT, ACCEPT_NUMBER, Connection, MessageListener
from .faults import WireFault
from .framing import Framer
from .http import HttpFramer
from .log import WireLog
from .postgresql import PostgreSQLFramer
from .redis import RedisFramer

PROTOCOLS: Final[dict[str, Callable[[], Framer]]] = {
    "postgresql": PostgreSQLFramer,
    "redis": RedisFramer,
    "amqp": AmqpFramer,
    "http": HttpFramer,
}

_LOOPBACK: Final = "127.0.0.1"


class Proxy:
    """A proxy in front of one server. It runs in the event loop that enters it.

    The messages of a connection are numbered from 1, both directions together, in order of arrival. 0 is the accept.

    Attributes:
        name: the name of the proxy in the log.
        target: host and port of the server. A change affects new connections only, as a change of an address does.
        connections: all connections so far, in order.
        fired: the name of the message at which the current fault was injected, for each connection.
        on_message: called with the number of the connection and each message that arrives, on connections from then on.
    """

    def __init__(self, name: str, protocol: str, host: str, port: int, *, log: WireLog | None = None) -> None:
        """Open nothing yet.

        Args:
            name: the name of the proxy in the log.
            protocol: one of `PROTOCOLS`.
            host: the host of the server.
            port: the port of the server.
            log: records the connections; it may be shared with other proxies.
        """
        self.name = name
        self.connections: list[Connection] = []
        self.fired: list[str] = []
        self.on_message: MessageListener | None = None
        self._make_framer = PROTOCOLS[protocol]
        self.target = host, port
        self._log = log
        self._fault: tuple[WireFault, int | str] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._port_holder: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._listening = False

    @property
    def port(self) -> int:
        """The proxy's port on the loopback interface. It does not change while the proxy is open."""
        if self._port_holder is None:
            raise RuntimeError("the proxy is not entered")
        port: int = self._port_holder.getsockname()[1]
        return port

    @property
    def open_connections(self) -> list[Connection]:
        """The connections that the client has not closed."""
        return [connection for connection in self.connections if connection.open_by_client]

    def inject(self, fault: WireFault, *, at: int | str) -> None:
        """Inject the fault at this message, by number or name, of every connection from now on: open ones and new ones.

        It is injected once into each connection.
        """
        self.fired.clear()
        self._fault = fault, at

    def break_now(self, fault: WireFault) -> None:
        """Inject the fault into every open connection now, and into new connections when they are accepted."""
        self.inject(fault, at=ACCEPT_NUMBER)
        for connection in self.open_connections:
            self._on_injection(fault, connection.messages[-1] if connection.messages else ACCEPT)
            connection.apply(fault)

    async def recover(self) -> None:
        """Inject nothing from now on, and accept new connections. Broken connections stay broken."""
        self._fault = None
        self._listen()

    async def __aenter__(self) -> Self:
        self._port_holder = socket.socket()
        try:
            self._port_holder.bind((_LOOPBACK, 0))  # keeps the port reserved while connections are refused
            self._port_holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # asyncio sets TCP_NODELAY only on sockets with this protocol number, and accepted sockets inherit it.
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
        for sock in (self._listener, self._port_holder):
            if sock is not None:
                sock.close()

    def _listen(self) -> None:
        """Accept new connections. The same socket is used each time, so that it is not mistaken for a leak."""
        if self._listener is not None and not self._listening:
            self._listener.listen()
            asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)
            self._listening = True

    def _refuse(self) -> None:
        """Refuse new connections and reset those that wait to be accepted. The port stays reserved."""
        if self._listener is not None and self._listening:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listening = False

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return  # the client has disconnected already
        client.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._serve(client), name=f"{self.name}, a connection")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: client.close())  # for a task that was cancelled before it had a transport

    async def _serve(self, client: socket.socket) -> None:
        ends = await asyncio.open_connection(sock=client)
        number = len(self.connections) + 1
        connection = Connection(
            number,
            ends,
            self._make_framer(),
            name=self.name,
            fault_at=self._fault_at,
            log=self._log,
            on_message=self.on_message,
        )
        self.connections.append(connection)
        await connection.run(*self.target)

    def _fault_at(self, number: int, name: str) -> WireFault | None:
        """Return the fault to inject at this message of a connection, if any, and count it as injected."""
        if self._fault is None:
            return None
        fault, at = self._fault
        if at not in (number, name):
            return None
        self._on_injection(fault, name)
        return fault

    def _on_injection(self, fault: WireFault, name: str) -> None:
        self.fired.append(name)
        if fault is WireFault.REFUSE:
            self._refuse()
