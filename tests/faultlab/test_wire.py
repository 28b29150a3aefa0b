"""The proxies: each fault does on the wire what it says, the log tells who closed, and real handshakes have their names."""

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
from faultlab.wire import GARBAGE, Closed, Opened, Proxy, WireFault, WireLog
from gateway.devstack.postgresql import PostgreSQL
from gateway.devstack.rabbitmq import RabbitMQ
from gateway.devstack.redis import Redis
from gateway.devstack.weather import Weather
from tests.end_to_end.running import until

PING = b"*1\r\n$4\r\nPING\r\n"
PONG = b"+PONG\r\n"


class Pinged:
    """A server that answers anything with PONG, and notes what it got and how each connection ended."""

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
async def pinged() -> AsyncGenerator[tuple[Pinged, Proxy, WireLog]]:
    """A server with a proxy in front of it, and when it is left, nothing that was not there before."""
    before = ResourceSnapshot.take()
    one, log = Pinged(), WireLog()
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    try:
        one.port = server.sockets[0].getsockname()[1]
        async with Proxy("cache", "redis", "127.0.0.1", one.port, log=log) as proxy:
            yield one, proxy, log
    finally:
        one.close_all()
        server.close()
    gc.collect()

    async def nothing_is_left() -> bool:
        return not ResourceSnapshot.take().leaked_since(before)

    await until(nothing_is_left, "the proxy holds nothing")


class Client:
    """A plain socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._reader = reader

    @classmethod
    async def of(cls, proxy: Proxy) -> "Client":
        return cls(*await asyncio.open_connection("127.0.0.1", proxy.port))

    async def ping(self) -> bytes:
        """Send one; return what comes back, b"" for FIN, b"RST", or b"..." for nothing at all."""
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
async def client_of(proxy: Proxy) -> AsyncGenerator[Client]:
    client = await Client.of(proxy)
    try:
        yield client
    finally:
        client.writer.transport.abort()


async def closed(log: WireLog, how_many: int = 1) -> list[str]:
    async def there() -> bool:
        return len(log.closed) >= how_many

    await until(there, "the close is recorded")
    return [str(record) for record in log.closed]


async def test_without_a_fault_everything_passes_and_the_log_says_who_closed() -> None:
    async with pinged() as (server, proxy, log):
        async with client_of(proxy) as client:
            assert await client.ping() == PONG
            assert [connection.messages for connection in proxy.open_connections] == [["PING", "reply to PING"]]
        said = await closed(log)

        assert said == ["cache 1 closed by the client after PING"]
        assert proxy.open_connections == []
        assert isinstance(next(iter(log)), Opened)
    assert server.ends == ["closed"]


async def test_a_client_that_sent_its_last_still_gets_the_answer() -> None:
    async with pinged() as (_, proxy, log), client_of(proxy) as client:
        client.writer.write(PING)
        client.writer.write_eof()

        assert await client.read() == PONG
        assert await closed(log) == ["cache 1 closed by the client after PING"]


async def test_a_server_that_closes_first_is_told_from_a_client_that_does() -> None:
    async with pinged() as (server, proxy, log), client_of(proxy) as client:
        await client.ping()
        server.close_all()

        assert await client.read() == b""
        assert await closed(log) == ["cache 1 closed by the server after PING"]
        assert len(proxy.open_connections) == 1, "the client has not let go yet"


async def test_a_reset_by_the_client_is_recorded_and_passed_on() -> None:
    async with pinged() as (server, proxy, log), client_of(proxy) as client:
        await client.ping()
        client.reset()

        assert await closed(log) == ["cache 1 reset by the client after PING"]

        async def passed_on() -> bool:
            return server.ends == ["reset"]

        await until(passed_on, "the server sees the reset")


async def test_a_fault_may_come_just_when_the_client_has_reset_the_connection() -> None:
    async with pinged() as (_, proxy, log), client_of(proxy) as client:
        await client.ping()
        client.reset()
        await asyncio.sleep(0)  # its socket is closed, and the proxy has not noticed
        proxy.break_now(WireFault.CLOSE)

        assert await closed(log) == ["cache 1 closed by the lab after PING"]

        async def let_go() -> bool:
            return proxy.open_connections == []

        await until(let_go, "the proxy notices")


async def test_nobody_behind_the_proxy_is_a_reset() -> None:
    async with Proxy("cache", "redis", "127.0.0.1", 1, log=(log := WireLog())) as proxy, client_of(proxy) as client:
        assert await client.read() == b"RST"
        assert [str(record) for record in log.closed] == ["cache 1 reset by the server after no message"]


async def test_nobody_behind_the_proxy_is_a_reset_for_a_client_that_has_spoken_already() -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    async with Proxy("cache", "redis", "127.0.0.1", 1) as proxy:
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", proxy.port)) as client:
                client.send(PING)

                async def was_told(client: socket.socket = client) -> bool:
                    client.setblocking(False)
                    try:
                        return client.recv(1) == b""
                    except BlockingIOError:
                        return False
                    except ConnectionResetError:
                        return True

                await until(was_told, "the client is reset")
    gc.collect()
    asyncio.get_running_loop().set_exception_handler(None)

    assert complaints == []


AT_THE_REPLY = {
    WireFault.REFUSE: [b"RST"],
    WireFault.RESET: [b"RST"],
    WireFault.CLOSE: [b""],
    WireFault.BLACK_HOLE: [b"...", b"..."],
    WireFault.TRUNCATE: [PONG[:3], b""],
    WireFault.GARBAGE: [GARBAGE, b"..."],
    WireFault.BYTE_AT_A_TIME: [bytes([byte]) for byte in PONG],
}


@pytest.mark.parametrize("fault", WireFault)
async def test_a_fault_at_a_reply_is_what_the_client_gets(fault: WireFault) -> None:
    async with pinged() as (server, proxy, _), client_of(proxy) as client:
        proxy.inject(fault, at="reply to PING")
        got = [await client.ping()]
        got += [await client.read() for _ in AT_THE_REPLY[fault][1:]]

        assert got == AT_THE_REPLY[fault]
        assert server.received == [PING]
        assert proxy.fired == ["reply to PING"]


AT_THE_REQUEST: dict[WireFault, tuple[bytes, bytes, list[str]]] = {
    WireFault.REFUSE: (b"RST", b"", ["reset"]),
    WireFault.RESET: (b"RST", b"", ["reset"]),
    WireFault.CLOSE: (b"", b"", ["closed"]),
    WireFault.BLACK_HOLE: (b"...", b"", []),
    WireFault.TRUNCATE: (b"", PING[: len(PING) // 2], ["closed"]),
    WireFault.GARBAGE: (b"...", GARBAGE, []),
    WireFault.BYTE_AT_A_TIME: (b"+", PING, []),
}


@pytest.mark.parametrize("fault", WireFault)
async def test_a_fault_at_a_request_is_what_the_server_gets(fault: WireFault) -> None:
    answer, arrived, ends = AT_THE_REQUEST[fault]
    async with pinged() as (server, proxy, _), client_of(proxy) as client:
        proxy.inject(fault, at=1)

        assert await client.ping() == answer
        assert proxy.fired == ["PING"]

        async def there() -> bool:
            return b"".join(server.received) == arrived and server.ends == ends

        await until(there, f"the server gets {arrived!r}, and then: {ends}")
        assert len(server.received) == (len(PING) if fault is WireFault.BYTE_AT_A_TIME else bool(arrived))


AT_THE_ACCEPT = {
    WireFault.REFUSE: b"RST",
    WireFault.RESET: b"RST",
    WireFault.CLOSE: b"",
    WireFault.BLACK_HOLE: b"...",
    WireFault.TRUNCATE: b"",
    WireFault.GARBAGE: GARBAGE,
    WireFault.BYTE_AT_A_TIME: b"+",
}


@pytest.mark.parametrize("fault", WireFault)
async def test_a_fault_at_the_accept_comes_before_any_message(fault: WireFault) -> None:
    async with pinged() as (_, proxy, _log):
        proxy.inject(fault, at=0)
        async with client_of(proxy) as client:
            assert await client.ping() == AT_THE_ACCEPT[fault]
            assert proxy.fired == ["accept"]


@pytest.mark.parametrize("fault", WireFault)
async def test_a_server_can_break_while_it_serves_and_be_repaired(fault: WireFault) -> None:
    async with pinged() as (_, proxy, _log), client_of(proxy) as client:
        assert await client.ping() == PONG
        proxy.break_now(fault)
        if fault is WireFault.BYTE_AT_A_TIME:
            assert await client.ping() == b"+"
        else:
            assert await client.ping() in {b"RST", b"", b"...", GARBAGE}
        assert proxy.fired == ["reply to PING"]

        await proxy.recover()
        async with client_of(proxy) as next_client:
            assert await next_client.ping() == PONG


async def test_whoever_is_refused_is_refused_until_the_repair_on_the_same_port() -> None:
    async with pinged() as (_, proxy, _log):
        port = proxy.port
        proxy.inject(WireFault.REFUSE, at="PING")
        async with client_of(proxy) as client:
            assert await client.ping() == b"RST"
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                await Client.of(proxy)
        await proxy.recover()
        async with client_of(proxy) as client:
            assert await client.ping() == PONG
        assert proxy.port == port


async def test_a_fault_hits_every_connection_at_its_own_message() -> None:
    async with pinged() as (_, proxy, log):
        proxy.inject(WireFault.CLOSE, at=3)
        for _ in range(2):
            async with client_of(proxy) as client:
                assert [await client.ping(), await client.ping()] == [PONG, b""]

        assert proxy.fired == ["PING", "PING"]
        assert await closed(log, 2) == [f"cache {number} closed by the lab after PING" for number in (1, 2)]


async def test_a_fault_that_comes_too_late_does_not_fire() -> None:
    async with pinged() as (_, proxy, _log), client_of(proxy) as client:
        proxy.inject(WireFault.RESET, at=3)

        assert await client.ping() == PONG
        assert proxy.fired == []


async def test_in_a_black_hole_it_is_seen_that_the_client_lets_go() -> None:
    async with pinged() as (server, proxy, log), client_of(proxy) as client:
        proxy.inject(WireFault.BLACK_HOLE, at="PING")
        assert await client.ping() == b"..."
        assert len(proxy.open_connections) == 1
        await client.close()

        assert await closed(log) == ["cache 1 closed by the client after PING"]
        assert proxy.open_connections == []

        async def given_back() -> bool:
            return server.ends == ["closed"]

        await until(given_back, "the server's end is closed, too")


async def test_in_a_black_hole_nobody_hears_that_the_server_closes() -> None:
    async with pinged() as (server, proxy, log), client_of(proxy) as client:
        await client.ping()
        proxy.break_now(WireFault.BLACK_HOLE)
        server.close_all()

        assert await client.read() == b"..."
        assert log.closed == []


async def test_a_fault_hits_a_connection_once() -> None:
    async with pinged() as (_, proxy, _log), client_of(proxy) as client:
        proxy.inject(WireFault.BYTE_AT_A_TIME, at="PING")
        for _ in range(2):
            assert await client.ping() == b"+"
            while await client.read() != b"\n":
                pass

        assert proxy.fired == ["PING"]


async def test_several_proxies_write_one_log_in_order() -> None:
    async with pinged() as (server, proxy, log), Proxy("other", "redis", "127.0.0.1", server.port, log=log) as other:
        async with client_of(proxy) as first:
            async with client_of(other) as second:
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


async def test_a_proxy_that_is_left_drops_what_it_holds() -> None:
    """What `pinged` looks for at its end: a client that stays, a black hole, and a server that does not close."""
    async with pinged() as (_, proxy, _log):
        first, second = await Client.of(proxy), await Client.of(proxy)
        await first.ping()
        proxy.inject(WireFault.BLACK_HOLE, at=1)
        await second.ping()
        await proxy.__aexit__(None, None, None)

        assert await first.read() == b""
        assert await second.read() == b""
        for client in (first, second):
            await client.close()


# Real clients and real servers.


async def test_postgresqls_handshake_and_goodbye_have_their_names(postgresql_server: PostgreSQL) -> None:
    async with Proxy("database", "postgresql", "127.0.0.1", postgresql_server.port, log=(log := WireLog())) as proxy:
        url = postgresql_server.url.replace("+asyncpg", "").replace(f":{postgresql_server.port}/", f":{proxy.port}/")
        connection = await asyncpg.connect(url, ssl=False)
        assert await connection.execute("SELECT 1") == "SELECT 1"
        await connection.close()
        (messages,) = [one.messages for one in proxy.connections]
        said = await closed(log)

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
    assert said == ["database 1 closed by the server after Terminate"], "asyncpg waits for the server to close"


async def test_rediss_handshake_has_its_names(redis_server: Redis) -> None:
    async with Proxy("redis", "redis", "127.0.0.1", redis_server.port, log=(log := WireLog())) as proxy:
        url = redis_server.url.replace(f":{redis_server.port}/", f":{proxy.port}/")
        async with redis.Redis.from_url(url, client_name="me", protocol=3) as client:
            await client.ping()
        (messages,) = [one.messages for one in proxy.connections]
        said = await closed(log)

    assert messages[:2] == ["HELLO", "reply to HELLO"]
    assert {"CLIENT SETNAME", "reply to CLIENT SETNAME"} <= set(messages)
    assert messages[-2:] == ["PING", "reply to PING"]
    assert said == ["redis 1 closed by the client after PING"]


async def test_rabbitmqs_handshake_and_goodbye_have_their_names(rabbitmq_server: RabbitMQ) -> None:
    async with Proxy("rabbitmq", "amqp", "127.0.0.1", rabbitmq_server.port, log=(log := WireLog())) as proxy:
        url = rabbitmq_server.url.replace(f":{rabbitmq_server.port}/", f":{proxy.port}/")
        async with await aio_pika.connect(url, timeout=5) as connection:
            channel = await connection.channel(publisher_confirms=True)
            await channel.default_exchange.publish(aio_pika.Message(b"x"), "nobody", mandatory=False)
        (messages,) = [one.messages for one in proxy.connections]
        said = await closed(log)

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
    assert said == ["rabbitmq 1 closed by the client after Connection.Close"]


async def test_a_request_and_its_response_have_their_names(weather_server: Weather) -> None:
    async with Proxy("weather", "http", "127.0.0.1", weather_server.port, log=(log := WireLog())) as proxy:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{proxy.port}", verify=False) as client:  # noqa: S501 - no TLS
            for _ in range(2):
                (await client.get("/livez")).raise_for_status()
        (messages,) = [one.messages for one in proxy.connections]
        said = await closed(log)

    assert messages == ["request head", "response head", "response body"] * 2
    assert said == ["weather 1 closed by the client after request head"]
