"""Private and undocumented API of client libraries: each test fails when a library changes what the gateway relies on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from gateway.devstack.rabbitmq import RabbitMQServer
from gateway.devstack.redis import RedisServer
from gateway.resources.broker_transport import BrokerTransports
from gateway.resources.http import abort_connector
from gateway.resources.rabbitmq import MAX_QUEUED_MESSAGES, RECONNECT_INTERVAL, BrokerConnection
from gateway.resources.redis_connections import RacedConnection, RenewedPool
from tests.support.waiting import wait_until


class TestAbortConnector:
    """aiohttp: `TCPConnector._close(abort_ssl=True)`."""

    async def test_closes_connection_in_use(self) -> None:
        """The call is synchronous, and a request that is waiting for its response fails."""
        received, closed = asyncio.Event(), asyncio.Event()

        async def stay_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)  # nothing, if the client opens a second connection to retry and closes it
            received.set()
            await reader.read()
            closed.set()
            writer.close()

        connector = aiohttp.TCPConnector()
        async with (
            await asyncio.start_server(stay_silent, "127.0.0.1", 0) as server,
            aiohttp.ClientSession(connector=connector) as session,
        ):
            port = server.sockets[0].getsockname()[1]
            request = asyncio.create_task(session.get(f"http://127.0.0.1:{port}/"))
            await received.wait()

            abort_connector(connector)

            assert connector.closed
            with pytest.raises(aiohttp.ClientConnectionError):
                await request
            await closed.wait()

    async def test_is_repeatable(self) -> None:
        """`abort()` may be called after a release, and more than once."""
        connector = aiohttp.TCPConnector()
        await connector.close()

        abort_connector(connector)


@asynccontextmanager
async def redis_pool(server: RedisServer, name: str) -> AsyncIterator[Any]:
    """Yield a pool. It is typed as Any because redis-py has no types for its methods."""
    pool = RenewedPool.from_url(server.url, connection_class=RacedConnection, client_name=name)
    yield pool
    await pool.disconnect()


class TestRacedConnection:
    """redis-py: `Connection._connect()` calls `asyncio.open_connection` with `_connection_arguments()`."""

    async def test_uses_the_socket(self, redis_server: RedisServer) -> None:
        """The connection uses the socket that the race of the addresses has opened."""
        connection: Any = RacedConnection(host="127.0.0.1", port=redis_server.port, username="gateway")
        connection.password = redis_server.password
        await connection.connect()

        assert connection._writer.get_extra_info("socket").fileno() == connection._arguments["sock"].fileno()
        await connection.disconnect()


class TestAbortConnections:
    """redis-py: `_available_connections`, `_in_use_connections`, `_writer` and `_close()`."""

    async def test_closes_all_connections(self, redis_server: RedisServer) -> None:
        """Connections in use and idle ones are closed without an `await`, and the server notices."""
        async with redis_pool(redis_server, "abort-connections") as pool:
            used, idle = [await pool.get_connection() for _ in range(2)]
            await pool.release(idle)
            assert (await redis_server.clients()).count("abort-connections") == 2

            pool.abort()

            assert not used.is_connected
            assert not idle.is_connected

            async def server_noticed() -> bool:
                return "abort-connections" not in await redis_server.clients()

            await wait_until(server_noticed, "the server closed both connections")
            await pool.release(used)

    async def test_unconnected_connection_is_ignored(self, redis_server: RedisServer) -> None:
        """A connection that was never connected has no transport."""
        async with redis_pool(redis_server, "abort-unconnected") as pool:
            pool._available_connections.append(pool.make_connection())

            pool.abort()


class TestRobustConnection:
    """aio-pika: `RobustConnection.kwargs["transport_factory"]` and `make_url`; aiormq: `TransportFactory` and `FRAME_BUFFER_SIZE`."""

    async def test_factory_opens_transport(self, rabbitmq_server: RabbitMQServer) -> None:
        """The connection opens its transport with the given factory, and `abort()` of the factory closes it."""
        factory = BrokerTransports()
        connection = BrokerConnection(rabbitmq_server.url, factory, name="private-api", heartbeat=15)
        assert not connection.connected.is_set()
        await connection.connect()

        (transport,) = factory._transports
        factory.abort()

        assert transport.is_closing()
        await connection.close()

    async def test_url_has_the_options(self) -> None:
        """`make_url` puts name, heartbeat and reconnect interval into the query, where aio-pika and aiormq read them."""
        url = "amqp://guest:guest@localhost/vhost"
        connection = BrokerConnection(url, BrokerTransports(), name="private-api", heartbeat=15)

        assert connection.url.query["name"] == "private-api"
        assert connection.url.query["heartbeat"] == "15"
        assert connection.reconnect_interval == RECONNECT_INTERVAL

    async def test_size_of_the_write_queue(self, rabbitmq_server: RabbitMQServer) -> None:
        """`Connection.FRAME_BUFFER_SIZE` of aiormq is the number of messages that a connection queues without a wait."""
        connection = BrokerConnection(rabbitmq_server.url, BrokerTransports(), name="private-api", heartbeat=15)
        await connection.connect()
        assert connection.transport is not None

        queue = connection.transport.connection.write_queue

        assert queue.maxsize == MAX_QUEUED_MESSAGES
        await connection.close()
