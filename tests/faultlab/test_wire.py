"""The proxies: the effect of each fault on the wire, the log of closed connections, the messages of real protocols."""

import asyncio
import gc
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import aio_pika
import asyncpg
import httpx
import pytest
import redis.asyncio as redis

from faultlab import ResourceSnapshot
from faultlab.wire import GARBAGE, Closed, Opened, Proxy, Side, WireFault, WireLog
from gateway.devstack.postgresql import PostgreSQLServer
from gateway.devstack.rabbitmq import RabbitMQServer
from gateway.devstack.redis import RedisServer
from gateway.devstack.weather import WeatherServer
from tests.support.waiting import wait_until

PING = b"*1\r\n$4\r\nPING\r\n"
PONG = b"+PONG\r\n"


class PongServer:
    """Answers everything with PONG, and records what it received and how each connection ended."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.ends: list[str] = []
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            while data := await reader.read(1024):
                self.received.append(data)
                writer.write(PONG)
            self.ends.append("closed")
        except ConnectionError:
            self.ends.append("reset")
        finally:
            writer.close()

    def close_all(self) -> None:
        for writer in self._writers:
            writer.close()


@asynccontextmanager
async def proxied_server() -> AsyncGenerator[tuple[PongServer, Proxy, WireLog]]:
    """A server behind a proxy. After the exit, nothing is open that was not open before."""
    before = ResourceSnapshot.take()
    pong_server, log = PongServer(), WireLog()
    server = await asyncio.start_server(pong_server.serve, "127.0.0.1", 0)
    try:
        pong_server.port = server.sockets[0].getsockname()[1]
        async with Proxy("cache", "redis", "127.0.0.1", pong_server.port, log=log) as proxy:
            yield pong_server, proxy, log
    finally:
        pong_server.close_all()
        server.close()
    gc.collect()

    async def no_leaks() -> bool:
        return not ResourceSnapshot.take().leaked_since(before)

    await wait_until(no_leaks, "the proxy has no leaks")


class Client:
    """A client with a plain socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._reader = reader

    @classmethod
    async def connect(cls, proxy: Proxy) -> "Client":
        return cls(*await asyncio.open_connection("127.0.0.1", proxy.port))

    async def ping(self) -> bytes:
        """Send PING and return what arrives: bytes, b"" for FIN, b"RST", or b"..." for nothing."""
        self.writer.write(PING)
        return await self.read()

    async def read(self) -> bytes:
        try:
            async with asyncio.timeout(0.1):
                return await self._reader.read(1024)
        except TimeoutError:
            return b"..."
        except ConnectionResetError:
            return b"RST"

    def reset(self) -> None:
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        await asyncio.wait({asyncio.ensure_future(self.writer.wait_closed())})


@asynccontextmanager
async def connected_client(proxy: Proxy) -> AsyncGenerator[Client]:
    client = await Client.connect(proxy)
    try:
        yield client
    finally:
        client.writer.transport.abort()


async def closed(log: WireLog, count: int = 1) -> list[str]:
    """Wait until `count` connections are closed, and return their records."""

    async def recorded() -> bool:
        return len(log.closed) >= count

    await wait_until(recorded, "the close is recorded")
    return [str(record) for record in log.closed]


async def test_no_fault_is_transparent() -> None:
    """Without a fault everything passes, and the log records that the client closed."""
    async with proxied_server() as (server, proxy, log):
        async with connected_client(proxy) as client:
            assert await client.ping() == PONG
            assert [connection.messages for connection in proxy.open_connections] == [["PING", "reply to PING"]]
        records = await closed(log)

        assert records == ["cache 1 closed by the client after PING"]
        assert proxy.open_connections == []
        assert isinstance(next(iter(log)), Opened)
    assert server.ends == ["closed"]


async def test_listener_gets_every_message() -> None:
    """The listener of a proxy is called with each message and the number of its connection, also with one that is lost."""
    messages: list[tuple[int, Side, str, bytes]] = []
    async with proxied_server() as (_, proxy, _log):
        proxy.on_message = lambda number, message: messages.append((number, message.sender, message.name, message.data))
        async with connected_client(proxy) as client:
            await client.ping()
        proxy.inject(WireFault.BLACK_HOLE, at="reply to PING")
        async with connected_client(proxy) as client:
            assert await client.ping() == b"..."

    assert messages == [
        (number, *message)
        for number in (1, 2)
        for message in [(Side.CLIENT, "PING", PING), (Side.SERVER, "reply to PING", PONG)]
    ]


async def test_half_closed_client_gets_the_reply() -> None:
    """A client that has sent FIN still receives the reply."""
    async with proxied_server() as (_, proxy, log), connected_client(proxy) as client:
        client.writer.write(PING)
        client.writer.write_eof()

        assert await client.read() == PONG
        assert await closed(log) == ["cache 1 closed by the client after PING"]


async def test_close_by_the_server() -> None:
    """The log distinguishes a close by the server from one by the client."""
    async with proxied_server() as (server, proxy, log), connected_client(proxy) as client:
        await client.ping()
        server.close_all()

        assert await client.read() == b""
        assert await closed(log) == ["cache 1 closed by the server after PING"]
        assert len(proxy.open_connections) == 1, "the client has not closed yet"


async def test_reset_by_the_client() -> None:
    """A reset by the client is recorded, and the server is reset as well."""
    async with proxied_server() as (server, proxy, log), connected_client(proxy) as client:
        await client.ping()
        client.reset()

        assert await closed(log) == ["cache 1 reset by the client after PING"]

        async def passed_on() -> bool:
            return server.ends == ["reset"]

        await wait_until(passed_on, "the server sees the reset")


async def test_fault_just_after_a_reset() -> None:
    """A fault may be injected between a reset by the client and the moment the proxy notices it."""
    async with proxied_server() as (_, proxy, log), connected_client(proxy) as client:
        await client.ping()
        client.reset()
        await asyncio.sleep(0)  # its socket is closed, and the proxy has not noticed
        proxy.break_now(WireFault.CLOSE)

        assert await closed(log) == ["cache 1 closed by the lab after PING"]

        async def noticed() -> bool:
            return proxy.open_connections == []

        await wait_until(noticed, "the proxy notices")


async def test_refused_by_the_server_is_a_reset() -> None:
    """If the server refuses the connection, the client is reset."""
    async with (
        Proxy("cache", "redis", "127.0.0.1", 1, log=(log := WireLog())) as proxy,
        connected_client(proxy) as client,
    ):
        assert await client.read() == b"RST"
        assert [str(record) for record in log.closed] == ["cache 1 reset by the server after no message"]


async def test_refused_after_the_client_has_sent() -> None:
    """The reset also reaches a client that has already sent something, without an error in the event loop."""
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: errors.append(context))
    async with Proxy("cache", "redis", "127.0.0.1", 1) as proxy:
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", proxy.port)) as client:
                client.send(PING)

                async def is_reset(client: socket.socket = client) -> bool:
                    client.setblocking(False)
                    try:
                        return client.recv(1) == b""
                    except BlockingIOError:
                        return False
                    except ConnectionResetError:
                        return True

                await wait_until(is_reset, "the client is reset")
    gc.collect()
    asyncio.get_running_loop().set_exception_handler(None)

    assert errors == []


AT_REPLY = {
    WireFault.REFUSE: [b"RST"],
    WireFault.RESET: [b"RST"],
    WireFault.CLOSE: [b""],
    WireFault.BLACK_HOLE: [b"...", b"..."],
    WireFault.TRUNCATE: [PONG[:3], b""],
    WireFault.GARBAGE: [GARBAGE, b"..."],
    WireFault.BYTE_AT_A_TIME: [bytes([byte]) for byte in PONG],
}


@pytest.mark.parametrize("fault", WireFault)
async def test_fault_at_a_reply(fault: WireFault) -> None:
    """The client receives the fault instead of the reply."""
    async with proxied_server() as (server, proxy, _), connected_client(proxy) as client:
        proxy.inject(fault, at="reply to PING")
        got = [await client.ping()]
        got += [await client.read() for _ in AT_REPLY[fault][1:]]

        assert got == AT_REPLY[fault]
        assert server.received == [PING]
        assert proxy.fired == ["reply to PING"]


AT_REQUEST: dict[WireFault, tuple[bytes, bytes, list[str]]] = {
    WireFault.REFUSE: (b"RST", b"", ["reset"]),
    WireFault.RESET: (b"RST", b"", ["reset"]),
    WireFault.CLOSE: (b"", b"", ["closed"]),
    WireFault.BLACK_HOLE: (b"...", b"", []),
    WireFault.TRUNCATE: (b"", PING[: len(PING) // 2], ["closed"]),
    WireFault.GARBAGE: (b"...", GARBAGE, []),
    WireFault.BYTE_AT_A_TIME: (b"+", PING, []),
}


@pytest.mark.parametrize("fault", WireFault)
async def test_fault_at_a_request(fault: WireFault) -> None:
    """The server receives the fault instead of the request."""
    reply, arrived, ends = AT_REQUEST[fault]
    async with proxied_server() as (server, proxy, _), connected_client(proxy) as client:
        proxy.inject(fault, at=1)

        assert await client.ping() == reply
        assert proxy.fired == ["PING"]

        async def received() -> bool:
            return b"".join(server.received) == arrived and server.ends == ends

        await wait_until(received, f"the server receives {arrived!r}, and its connection ends: {ends}")
        assert len(server.received) == (len(PING) if fault is WireFault.BYTE_AT_A_TIME else bool(arrived))


AT_ACCEPT = {
    WireFault.REFUSE: b"RST",
    WireFault.RESET: b"RST",
    WireFault.CLOSE: b"",
    WireFault.BLACK_HOLE: b"...",
    WireFault.TRUNCATE: b"",
    WireFault.GARBAGE: GARBAGE,
    WireFault.BYTE_AT_A_TIME: b"+",
}


@pytest.mark.parametrize("fault", WireFault)
async def test_fault_at_the_accept(fault: WireFault) -> None:
    """A fault at the accept is injected before any message."""
    async with proxied_server() as (_, proxy, _log):
        proxy.inject(fault, at=0)
        async with connected_client(proxy) as client:
            assert await client.ping() == AT_ACCEPT[fault]
            assert proxy.fired == ["accept"]


@pytest.mark.parametrize("fault", WireFault)
async def test_break_now_and_recover(fault: WireFault) -> None:
    """A fault can be injected into open connections at any time; after `recover`, new connections work."""
    async with proxied_server() as (_, proxy, _log), connected_client(proxy) as client:
        assert await client.ping() == PONG
        proxy.break_now(fault)
        if fault is WireFault.BYTE_AT_A_TIME:
            assert await client.ping() == b"+"
        else:
            assert await client.ping() in {b"RST", b"", b"...", GARBAGE}
        assert proxy.fired == ["reply to PING"]

        await proxy.recover()
        async with connected_client(proxy) as next_client:
            assert await next_client.ping() == PONG


async def test_refused_until_recovery() -> None:
    """After REFUSE, connections are refused until `recover`; the port stays the same."""
    async with proxied_server() as (_, proxy, _log):
        port = proxy.port
        proxy.inject(WireFault.REFUSE, at="PING")
        async with connected_client(proxy) as client:
            assert await client.ping() == b"RST"
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                await Client.connect(proxy)
        await proxy.recover()
        async with connected_client(proxy) as client:
            assert await client.ping() == PONG
        assert proxy.port == port


async def test_fault_in_every_connection() -> None:
    """A fault is injected into every connection, at that connection's own message."""
    async with proxied_server() as (_, proxy, log):
        proxy.inject(WireFault.CLOSE, at=3)
        for _ in range(2):
            async with connected_client(proxy) as client:
                assert [await client.ping(), await client.ping()] == [PONG, b""]

        assert proxy.fired == ["PING", "PING"]
        assert await closed(log, 2) == [f"cache {number} closed by the lab after PING" for number in (1, 2)]


async def test_fault_at_a_message_that_never_comes() -> None:
    """A fault at a message that is not sent is not injected."""
    async with proxied_server() as (_, proxy, _log), connected_client(proxy) as client:
        proxy.inject(WireFault.RESET, at=3)

        assert await client.ping() == PONG
        assert proxy.fired == []


async def test_black_hole_notices_client_close() -> None:
    """In a black hole, a close by the client is recorded, and the server's end is closed."""
    async with proxied_server() as (server, proxy, log), connected_client(proxy) as client:
        proxy.inject(WireFault.BLACK_HOLE, at="PING")
        assert await client.ping() == b"..."
        assert len(proxy.open_connections) == 1
        await client.close()

        assert await closed(log) == ["cache 1 closed by the client after PING"]
        assert proxy.open_connections == []

        async def server_closed() -> bool:
            return server.ends == ["closed"]

        await wait_until(server_closed, "the server's end is closed")


async def test_black_hole_hides_server_close() -> None:
    """In a black hole, the client does not notice that the server closes."""
    async with proxied_server() as (server, proxy, log), connected_client(proxy) as client:
        await client.ping()
        proxy.break_now(WireFault.BLACK_HOLE)
        server.close_all()

        assert await client.read() == b"..."
        assert log.closed == []


async def test_fault_is_injected_once() -> None:
    """A fault is injected at most once into each connection."""
    async with proxied_server() as (_, proxy, _log), connected_client(proxy) as client:
        proxy.inject(WireFault.BYTE_AT_A_TIME, at="PING")
        for _ in range(2):
            assert await client.ping() == b"+"
            while await client.read() != b"\n":
                pass

        assert proxy.fired == ["PING"]


async def test_shared_log_is_in_order() -> None:
    """Several proxies can record into one log, in the order of the events."""
    async with (
        proxied_server() as (server, proxy, log),
        Proxy("other", "redis", "127.0.0.1", server.port, log=log) as other,
    ):
        async with connected_client(proxy) as first:
            async with connected_client(other) as second:
                await second.ping()
                await first.ping()
            await closed(log, 1)
        await closed(log, 2)

        assert [(type(record), record.proxy) for record in log] == [
            (Opened, "cache"),
            (Opened, "other"),
            (Closed, "other"),
            (Closed, "cache"),
        ]
        assert [record.at for record in log] == sorted(record.at for record in log)


async def test_exit_closes_everything() -> None:
    """Exiting the proxy closes its connections: with an idle client, a black hole, and a server that stays open.

    `proxied_server` checks at its end that nothing is left open.
    """
    async with proxied_server() as (_, proxy, _log):
        first, second = await Client.connect(proxy), await Client.connect(proxy)
        await first.ping()
        proxy.inject(WireFault.BLACK_HOLE, at=1)
        await second.ping()
        await proxy.__aexit__(None, None, None)

        assert await first.read() == b""
        assert await second.read() == b""
        for client in (first, second):
            await client.close()


# Real clients and real servers


async def test_postgresql_messages_are_named(postgresql_server: PostgreSQLServer) -> None:
    """The messages of a connection by asyncpg have the names of PostgreSQL's documentation."""
    async with Proxy("database", "postgresql", "127.0.0.1", postgresql_server.port, log=(log := WireLog())) as proxy:
        url = postgresql_server.url.replace("+asyncpg", "").replace(f":{postgresql_server.port}/", f":{proxy.port}/")
        connection = await asyncpg.connect(url, ssl=False)
        assert await connection.execute("SELECT 1") == "SELECT 1"
        await connection.close()
        (messages,) = [connected.messages for connected in proxy.connections]
        records = await closed(log)

    assert list(dict.fromkeys(messages)) == [
        "Startup",
        "AuthenticationSASL",
        "SASLInitialResponse",
        "AuthenticationSASLContinue",
        "SASLResponse",
        "AuthenticationSASLFinal",
        "AuthenticationOk",
        "ParameterStatus",
        "BackendKeyData",
        "ReadyForQuery",
        "Query",
        "RowDescription",
        "DataRow",
        "CommandComplete",
        "Terminate",
    ]
    assert records == ["database 1 closed by the server after Terminate"], "asyncpg waits for the server to close"


async def test_redis_messages_are_named(redis_server: RedisServer) -> None:
    """The messages of a connection by redis-py are named after their commands."""
    async with Proxy("redis", "redis", "127.0.0.1", redis_server.port, log=(log := WireLog())) as proxy:
        url = redis_server.url.replace(f":{redis_server.port}/", f":{proxy.port}/")
        async with redis.Redis.from_url(url, client_name="me", protocol=3) as client:
            await client.ping()
        (messages,) = [connected.messages for connected in proxy.connections]
        records = await closed(log)

    assert messages[:2] == ["HELLO", "reply to HELLO"]
    assert {"CLIENT SETNAME", "reply to CLIENT SETNAME"} <= set(messages)
    assert messages[-2:] == ["PING", "reply to PING"]
    assert records == ["redis 1 closed by the client after PING"]


async def test_amqp_messages_are_named(rabbitmq_server: RabbitMQServer, vhost: str) -> None:
    """The messages of a connection by aio-pika have the names of the AMQP specification."""
    async with Proxy("rabbitmq", "amqp", "127.0.0.1", rabbitmq_server.port, log=(log := WireLog())) as proxy:
        url = vhost.replace(f":{rabbitmq_server.port}/", f":{proxy.port}/")
        async with await aio_pika.connect(url, timeout=5) as connection:
            channel = await connection.channel(publisher_confirms=True)
            await channel.default_exchange.publish(aio_pika.Message(b"x"), "no-such-queue", mandatory=False)
        (messages,) = [connected.messages for connected in proxy.connections]
        records = await closed(log)

    assert messages == [
        "ProtocolHeader",
        "Connection.Start",
        "Connection.StartOk",
        "Connection.Tune",
        "Connection.TuneOk",
        "Connection.Open",
        "Connection.OpenOk",
        "Channel.Open",
        "Channel.OpenOk",
        "Confirm.Select",
        "Confirm.SelectOk",
        "Basic.Publish",
        "ContentHeader",
        "ContentBody",
        "Basic.Ack",
        "Connection.Close",
        "Connection.CloseOk",
    ]
    assert records == ["rabbitmq 1 closed by the client after Connection.Close"]


async def test_http_messages_are_named(weather_server: WeatherServer) -> None:
    """The messages of two requests by httpx are heads and bodies."""
    async with Proxy("weather", "http", "127.0.0.1", weather_server.port, log=(log := WireLog())) as proxy:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{proxy.port}", verify=False) as client:  # noqa: S501 - no TLS
            for _ in range(2):
                (await client.get("/livez")).raise_for_status()
        (messages,) = [connected.messages for connected in proxy.connections]
        records = await closed(log)

    assert messages == ["request head", "response head", "response body"] * 2
    assert records == ["weather 1 closed by the client after request head"]
