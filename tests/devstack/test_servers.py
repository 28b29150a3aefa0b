"""Each server answers under its URL, and does with it what a test may ask for."""

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from pathlib import Path

import aio_pika
import asyncpg
import pytest
import redis.asyncio as redis_client
from redis.exceptions import AuthenticationError

from gateway.devstack import ports, reaper, server
from gateway.devstack.postgresql import PostgreSQLServer
from gateway.devstack.rabbitmq import RabbitMQServer
from gateway.devstack.redis import RedisServer
from gateway.devstack.server import DevstackError, PortInUseError, Server, find_program
from gateway.devstack.stack import Devstack
from tests.devstack.process_probes import alive, takes_connections
from tests.support.waiting import TIMEOUT, wait_until

NAMES = ["weather", "postgresql", "redis", "rabbitmq"]


@pytest.fixture(params=NAMES)
def any_server(request: pytest.FixtureRequest, devstack: Devstack) -> Server:
    """Each of the four in turn."""
    found = getattr(devstack, request.param)
    assert isinstance(found, Server)
    return found


@asynccontextmanager
async def connected(url: str, name: str = "test") -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(url.replace("+asyncpg", ""), server_settings={"application_name": name})
    try:
        yield connection
    finally:
        await connection.close()


class TestAnyServer:
    async def test_answers_and_says_so(self, any_server: Server) -> None:
        assert any_server.running
        await wait_until(any_server.is_ready, "it answers")

    def test_listens_on_loopback_only(self, any_server: Server) -> None:
        # /proc/net/tcp has address:port in hexadecimal; state 0A is listening.
        listening = [
            fields[1].split(":")
            for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
            if (fields := line.split())[3] == "0A"
        ]
        addresses = {address for address, port in listening if int(port, 16) in any_server.ports}
        assert addresses == {"0100007F"}

    def test_keeps_its_folder_to_itself(self, any_server: Server) -> None:
        assert any_server.folder.stat().st_mode & 0o777 == 0o700

    async def test_is_not_started_twice(self, any_server: Server) -> None:
        with pytest.raises(RuntimeError, match="is running already"):
            await any_server.start()


class TestAllServers:
    async def test_suspended_take_connections_and_do_not_answer(self, devstack: Devstack) -> None:
        servers = [devstack.weather, devstack.postgresql, devstack.redis, devstack.rabbitmq]
        with ExitStack() as stack:
            for each in servers:
                stack.enter_context(each.suspended())
                assert {reaper.state(pid) for pid in reaper.find_processes(each.folder)} == {"T"}
                assert takes_connections(each.port)
                assert each.running
            assert not any(await asyncio.gather(*(each.is_ready() for each in servers)))
        for each in servers:
            await wait_until(each.is_ready, f"{each.name} answers again")

    async def test_killed_are_gone_at_once_and_come_back_with_their_data(self, devstack: Devstack) -> None:
        servers = [devstack.weather, devstack.postgresql, devstack.redis, devstack.rabbitmq]
        urls = [each.url for each in servers]
        async with redis_client.Redis.from_url(devstack.redis.url_of(61)) as client:
            await client.set("kept", 1)
        async with await aio_pika.connect(devstack.rabbitmq.url) as amqp:
            await (await amqp.channel()).declare_queue("kept", durable=True)
            await devstack.rabbitmq.sync()
        try:
            for each in servers:
                pids = reaper.find_processes(each.folder)
                each.kill()
                assert not each.running
                assert not any(map(alive, pids))
                assert not any(map(takes_connections, each.ports))
                with socket.socket() as stranger, pytest.raises(OSError, match="Address already in use"):
                    stranger.bind((ports.LOOPBACK, each.port))
        finally:
            await asyncio.gather(*(each.start() for each in servers))

        assert [each.url for each in servers] == urls
        async with redis_client.Redis.from_url(devstack.redis.url_of(61)) as client:
            assert await client.getdel("kept") == b"1"
        async with await aio_pika.connect(devstack.rabbitmq.url) as amqp:
            kept = await (await amqp.channel()).declare_queue("kept", passive=True)  # fails if it is not there
            await kept.delete()


class TestPostgreSQL:
    async def test_its_url_leads_to_a_database_of_its_own_role(self, postgresql_server: PostgreSQLServer) -> None:
        async with connected(postgresql_server.url) as connection:
            assert await connection.fetchval("SELECT current_user || '@' || current_database()") == "gateway@gateway"
            await connection.execute("CREATE TABLE mine (id integer)")
            await connection.execute("DROP TABLE mine")
            assert not await connection.fetchval("SELECT usesuper FROM pg_user WHERE usename = current_user")

    async def test_it_sorts_by_code_and_knows_the_letters_of_all_languages(
        self, postgresql_server: PostgreSQLServer
    ) -> None:
        async with connected(postgresql_server.url) as connection:
            assert await connection.fetchval("SELECT lower('ZÜRICH')") == "zürich"

    async def test_what_was_committed_survives_a_kill_in_the_same_instant(
        self, postgresql_server: PostgreSQLServer
    ) -> None:
        url = await postgresql_server.create_database("survives")
        async with connected(url) as connection:
            await connection.execute("CREATE TABLE kept (id integer)")
            await connection.execute("INSERT INTO kept VALUES (1)")
            postgresql_server.kill()
        await postgresql_server.start()
        async with connected(url) as connection:
            assert await connection.fetchval("SELECT id FROM kept") == 1
        await postgresql_server.drop_database("survives")

    async def test_a_database_is_a_copy_of_its_template(self, postgresql_server: PostgreSQLServer) -> None:
        template = await postgresql_server.create_database("template")
        async with connected(template) as connection:
            await connection.execute("CREATE TABLE copied AS SELECT 1 AS id")
        url = await postgresql_server.create_database("copy", template="template")
        async with connected(url) as connection:
            assert await connection.fetchval("SELECT id FROM copied") == 1
            await postgresql_server.drop_database("copy")  # although somebody is connected
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
                await connection.fetchval("SELECT 1")
        await postgresql_server.drop_database("template")

    async def test_it_knows_who_is_connected(self, postgresql_server: PostgreSQLServer) -> None:
        async with connected(postgresql_server.url, "gateway-1"):
            assert "gateway-1" in await postgresql_server.clients()


class TestRedis:
    async def test_it_lets_in_nobody_without_a_password(self, redis_server: RedisServer) -> None:
        async with redis_client.Redis.from_url(f"redis://{ports.LOOPBACK}:{redis_server.port}") as client:
            with pytest.raises(AuthenticationError):
                await client.ping()

    async def test_databases_are_apart(self, redis_server: RedisServer) -> None:
        async with (
            redis_client.Redis.from_url(redis_server.url_of(62)) as one,
            redis_client.Redis.from_url(redis_server.url_of(63)) as other,
        ):
            await one.set("key", "value")
            assert await other.get("key") is None
            await one.flushdb()

    async def test_restarted_it_has_its_port_and_data(self, redis_server: RedisServer) -> None:
        async with redis_client.Redis.from_url(redis_server.url_of(61)) as client:
            await client.set("key", "value")
            port = redis_server.port
            await redis_server.restart()
            assert redis_server.port == port
            await client.connection_pool.disconnect()
            assert await client.getdel("key") == b"value"

    async def test_it_knows_who_is_connected(self, redis_server: RedisServer) -> None:
        async with redis_client.Redis.from_url(redis_server.url, client_name="gateway-1") as client:
            await client.ping()
            assert "gateway-1" in await redis_server.clients()


async def ignore(message: object) -> None:
    del message


class TestRabbitMQ:
    async def test_a_vhost_is_apart_and_gone_once_deleted(self, rabbitmq_server: RabbitMQServer) -> None:
        name = f"vhost/{secrets.token_hex(4)}"
        url = await rabbitmq_server.add_vhost(name)
        async with await aio_pika.connect(url, client_properties={"connection_name": "gateway-1"}) as connection:
            channel = await connection.channel()
            await channel.declare_queue("here", exclusive=True)
            assert "gateway-1" in await rabbitmq_server.clients()
        await rabbitmq_server.delete_vhost(name)
        with pytest.raises(aio_pika.exceptions.AMQPError):
            await aio_pika.connect(url, timeout=TIMEOUT)

    async def test_a_census_attributes_channels_and_consumers_to_their_connection(
        self, rabbitmq_server: RabbitMQServer
    ) -> None:
        connection = await aio_pika.connect(rabbitmq_server.url, client_properties={"connection_name": "gateway-2"})
        async with connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(exclusive=True)
            await queue.consume(ignore)
            await connection.channel()
            census = await rabbitmq_server.list_client_objects()

        assert census["connections"].count("gateway-2") == 1
        assert census["channels"].count("gateway-2") == 2
        assert census["consumers"].count("gateway-2") == 1


class Stub(Server):
    """A server that is a shell command."""

    name = "Stub"

    def __init__(self, folder: Path, command: str, probe: Callable[[], bool] = lambda: False) -> None:
        super().__init__(folder)
        self._command = command
        self._probe = probe

    @property
    def url(self) -> str:
        return f"stub://{ports.LOOPBACK}:{self.port}"

    def command(self) -> list[str]:
        return ["sh", "-c", self._command]

    async def probe(self) -> bool:
        return self._probe()


@pytest.fixture
def folder(devstack_folder: Path) -> Path:
    """For a server of the test's own."""
    return devstack_folder / secrets.token_hex(4)


class TestStarting:
    async def test_one_that_ends_shows_the_end_of_its_log(self, folder: Path) -> None:
        with pytest.raises(DevstackError) as failure:
            async with Stub(folder, "seq 100; exit 7"):
                pytest.fail("it started")
        lines = str(failure.value).splitlines()
        assert lines[0] == "Stub ended with status 7 while starting"
        assert lines[1:] == [f"  | {number}" for number in range(86, 101)]

    async def test_one_that_never_answers_is_given_up(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(server, "_START_LIMIT", 0.1)
        with pytest.raises(DevstackError, match=r"^Stub does not answer after 0.1 s, and printed nothing$"):
            async with Stub(folder, "sleep 60 & wait"):
                pytest.fail("it started")
        assert reaper.find_processes(folder) == []

    async def test_a_port_that_was_taken_in_the_meantime_is_exchanged(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reserve = ports.reserve
        with socket.create_server((ports.LOOPBACK, 0)) as stranger:
            taken = [stranger.dup()]
            monkeypatch.setattr(ports, "reserve", lambda: taken.pop() if taken else reserve())
            async with RedisServer(folder) as started:
                assert started.port != stranger.getsockname()[1]
                await wait_until(started.is_ready, "it answers")

    async def test_ports_that_are_always_taken_are_given_up(self, folder: Path) -> None:
        with pytest.raises(PortInUseError, match="Address already in use"):
            async with Stub(folder, "echo run >>runs; echo bind: Address already in use; exit 1") as stub:
                pytest.fail(f"it started on {stub.port}")
        assert (folder / "runs").read_text().count("run") == 5

    async def test_one_that_ignores_the_signal_is_killed(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(server, "_STOP_LIMIT", 0.1)
        ready = folder / "ready"
        async with Stub(folder, "trap '' TERM; : >ready; while :; do sleep 1; done", ready.exists) as stub:
            pids = reaper.find_processes(folder)
            assert pids
            await stub.stop()
            assert not any(map(alive, pids))

    async def test_one_that_is_suspended_stops_as_well(self, folder: Path) -> None:
        ready = folder / "ready"
        async with Stub(folder, "trap 'echo bye >>ready; exit' TERM; : >ready; sleep 60 & wait", ready.exists) as stub:
            stub.suspend()
        assert ready.read_text() == "bye\n"

    @pytest.mark.parametrize("down", [Server.killed, Server.stopped])
    async def test_one_that_is_down_for_a_block_comes_back_whatever_happens_in_it(
        self, folder: Path, down: Callable[[Server], AbstractAsyncContextManager[None]]
    ) -> None:
        async with Stub(folder, "sleep 60", lambda: True) as stub:
            with pytest.raises(ZeroDivisionError):
                async with down(stub):
                    assert not stub.running
                    raise ZeroDivisionError
            assert stub.running

    async def test_one_that_ended_by_itself_stops_as_well(self, folder: Path) -> None:
        async with Stub(folder, "sleep 60", lambda: True) as stub:
            reaper.kill(folder)
            assert not stub.running

    async def test_a_second_cancellation_does_not_leave_it(self, folder: Path) -> None:
        started, never = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            async with Stub(folder, "trap '' TERM; while :; do sleep 1; done", lambda: True):
                started.set()
                await never.wait()

        task = asyncio.create_task(hold())
        await started.wait()
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert reaper.find_processes(folder) == []


class TestTools:
    async def test_what_a_tool_prints_is_returned(self, redis_server: RedisServer) -> None:
        assert await redis_server.run("pwd") == f"{redis_server.folder}\n"

    async def test_a_tool_that_fails_says_why(self, redis_server: RedisServer) -> None:
        with pytest.raises(DevstackError, match=r"^Redis: sh failed with status 3\n  \| no$"):
            await redis_server.run("sh", "-c", "echo no; exit 3")

    async def test_a_tool_that_hangs_is_killed(self, redis_server: RedisServer) -> None:
        with pytest.raises(DevstackError, match=r"^Redis: sleep took more than 0.05 s, and printed nothing$"):
            await redis_server.run("sleep", "60", limit=0.05)

    def test_one_that_is_missing_says_what_to_install(self) -> None:
        with pytest.raises(DevstackError, match=r"^no-such-server is not installed; on Debian: apt-get install it$"):
            find_program("no-such-server", package="it")


class TestPorts:
    def test_one_is_nobody_elses(self) -> None:
        with ports.reserve() as held, socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(held.getsockname())

    def test_none_is_one_that_a_client_could_be_given(self) -> None:
        lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        with ports.reserve() as held:
            assert held.getsockname()[1] < lowest
