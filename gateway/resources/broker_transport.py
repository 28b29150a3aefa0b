"""The transport to RabbitMQ: by TCP or TLS, to the first address that responds, and watched for reports of the broker.

The broker reports why it closes a connection, and that an alarm blocks it. aiormq drops both texts, so they are read here.
"""

import asyncio
import ssl
import struct
from typing import Any
from weakref import WeakSet

import pamqp.frame
from aiormq.connection import TransportFactory
from pamqp.commands import Connection
from pamqp.exceptions import PAMQPException
from yarl import URL

from gateway.network.addresses import open_socket

_PORTS = {"amqp": 5672, "amqps": 5671}
_READER_LIMIT = 2**16  # bytes, as asyncio's default

_FRAME_HEAD = struct.Struct(">BHI")  # type, channel, size of the payload
_FRAME_END = 1  # byte after the payload
_METHOD, _HEARTBEAT = 1, 8  # the first and the last type of a frame

ACCESS_REFUSED, NOT_ALLOWED = 403, 530  # reply codes


class ClosedByBrokerError(ConnectionError):
    """The broker has closed the connection. The message is its own text.

    Attributes:
        reply_code: the code of the reason.
        is_permanent: a retry would not help: the password is wrong, or the user has no access to the virtual host.
    """

    def __init__(self, reply_code: int, text: str) -> None:
        super().__init__(text)
        self.reply_code = reply_code
        # The limits of a virtual host, of a user and of a node have the same reply code as a virtual host that is missing.
        at_limit = "limit" in text and "is reached" in text
        self.is_permanent = reply_code == ACCESS_REFUSED or (reply_code == NOT_ALLOWED and not at_limit)


class BrokerTransports(TransportFactory):
    """Opens the transports of one connection, one after another, and keeps track of them.

    Attributes:
        last_error: why the last attempt failed or the last connection was closed, if that is known; None while a connection
            is open. It is kept during the next attempt.
        blocked: the reason of the alarm that blocks the connection, such as "low on memory", or None.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        """Use TLS if there is a context for it."""
        self.last_error: Exception | None = None
        self.blocked: str | None = None
        self._connecting = False  # since the latest attempt began, until it has failed or the connection is open
        self._tls = tls
        self._transports: WeakSet[asyncio.WriteTransport] = WeakSet()

    async def create(self, url: URL, **_: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a transport.

        Raises:
            OSError: no address accepts the connection, or the TLS handshake failed.
        """
        self.blocked = None
        self._connecting = True
        return await self._open(str(url.host), url.port or _PORTS[url.scheme])

    async def _open(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=_READER_LIMIT)
        protocol = _WatchedProtocol(reader, self)
        sock = await open_socket(host, port)
        try:
            transport, _ = await loop.create_connection(
                lambda: protocol, sock=sock, ssl=self._tls, server_hostname=host if self._tls else None
            )
        except BaseException:
            sock.close()
            raise
        self._transports.add(transport)
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    def on_report(self, frame: object) -> None:
        """Keep what the broker reports about the connection."""
        match frame:
            case Connection.OpenOk():
                self.last_error, self._connecting = None, False
            case Connection.Close():
                self._connecting = False
                self.last_error = ClosedByBrokerError(frame.reply_code or 0, _one_line(frame.reply_text))
            case Connection.Blocked():
                self.blocked = _one_line(frame.reason)
            case Connection.Unblocked():
                self.blocked = None

    def on_failed_attempt(self, error: Exception) -> None:
        """Keep the error of an attempt to connect, unless the broker has reported a reason."""
        if self._connecting:
            self.last_error, self._connecting = error, False

    def abort(self) -> None:
        """Close all transports immediately."""
        for transport in tuple(self._transports):
            transport.abort()


class _WatchedProtocol(asyncio.StreamReaderProtocol):
    """Feeds the reader, and passes the frames about the connection itself to the factory."""

    def __init__(self, reader: asyncio.StreamReader, transports: BrokerTransports) -> None:
        super().__init__(reader)
        self._transports = transports
        self._received = bytearray()
        self._watching = True

    def data_received(self, data: bytes) -> None:
        if self._watching:
            self._received += data
            try:
                self._read_frames()
            except PAMQPException:  # aiormq reports what is no AMQP
                self._watching = False
                self._received.clear()
        super().data_received(data)

    def _read_frames(self) -> None:
        while len(self._received) >= _FRAME_HEAD.size:
            frame_type, channel, size = _FRAME_HEAD.unpack_from(self._received)
            if not _METHOD <= frame_type <= _HEARTBEAT:
                raise PAMQPException
            end = _FRAME_HEAD.size + size + _FRAME_END
            if len(self._received) < end:
                return
            if channel == 0 and frame_type == _METHOD:
                self._transports.on_report(pamqp.frame.unmarshal(bytes(self._received[:end]))[2])
            del self._received[:end]


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split()).rstrip(".")
