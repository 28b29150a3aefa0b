"""Each server is ready under its URL, and can be suspended, killed, stopped and started by a test."""

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from pathlib import Path

import aio_pika
import asyncpg
import pytest
from aio_pika.connection import make_url
from aiormq.exceptions import ChannelAccessRefused
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError

from gateway.devstack import ports, reaper, server
from gateway.devstack.postgresql import PostgreSQLServer
from gateway.devstack.rabbitmq import RabbitMQServer
from gateway.devstack.redis import RedisServer
from gateway.devstack.server import DevstackError, PortInUseError, Server, find_program
from gateway.devstack.stack import Devstack
from tests.devstack.process_probes import accepts_connections, alive
from tests.support.entries import WITH_SERVER, server_for
from tests.support.waiting import TIMEOUT, wait_until


@pytest.fixture(params=WITH_SERVER)
def any_server(request: pytest.FixtureRequest, devstack: Devstack) -> Server:
    """Each server in turn."""
    return server_for(request.param, devstack)


@asynccontextmanager
async def connected(url: str, name: str = "test") -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(url.replace("+asyncpg", ""), server_settings={"application_name": name})
    try:
        yield connection
    finally:
        await connection.close()


class TestAnyServer:
    async def test_is_running_and_ready(self, any_server: Server) -> None:
        """An entered server is running and becomes ready."""
        assert any_server.running
        await wait_until(any_server.is_ready, "it is ready")

    def test_listens_on_loopback_only(self, any_server: Server) -> None:
        """All its ports are open on 127.0.0.1 only."""
        # /proc/net/tcp has address:port in hexadecimal; state 0A is listening.
        listening = [
            fields[1].split(":")
            for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
            if (fields := line.split())[3] == "0A"
        ]

        addresses = {address for address, port in listening if int(port, 16) in any_server.ports}

        assert addresses == {"0100007F"}

    def test_folder_is_private(self, any_server: Server) -> None:
        """No other user can read its folder."""
        assert any_server.folder.stat().st_mode & 0o777 == 0o700

    async def test_second_start_is_an_error(self, any_server: Server) -> None:
        """A running server cannot be started."""
        with pytest.raises(RuntimeError, match="is running already"):
            await any_server.start()


class TestAllServers:
    async def test_suspended(self, devstack: Devstack) -> None:
        """Suspended servers accept connections and do not respond. After the block they are ready again."""
        servers = devstack.by_name.values()
        with ExitStack() as stack:
            for each in servers:
                stack.enter_context(each.suspended())
                assert {reaper.state(pid) for pid in reaper.find_processes(each.folder)} == {"T"}
                assert accepts_connections(each.port)
                assert each.running
            assert not any(await asyncio.gather(*(each.is_ready() for each in servers)))

        for each in servers:
            await wait_until(each.is_ready, f"{each.name} is ready again")

    async def test_killed_and_started(self, devstack: Devstack) -> None:
        """When `kill` returns, the processes are gone, and the ports are closed but still reserved. After a start, the
        servers have the same URLs and data.
        """
        servers = devstack.by_name.values()
        urls = [each.url for each in servers]
        async with Redis.from_url(devstack.redis.url_of(61)) as client:
            await client.set("key", 1)
        async with await aio_pika.connect(devstack.rabbitmq.url) as amqp:
            await (await amqp.channel()).declare_queue("gateway.durable", durable=True)
            await devstack.rabbitmq.sync()
        try:
            for each in servers:
                pids = reaper.find_processes(each.folder)
                each.kill()
                assert not each.running
                assert not any(map(alive, pids))
                assert not any(map(accepts_connections, each.ports))
                with socket.socket() as other, pytest.raises(OSError, match="Address already in use"):
                    other.bind((ports.LOOPBACK, each.port))
        finally:
            await asyncio.gather(*(each.start() for each in servers))

        assert [each.url for each in servers] == urls
        async with Redis.from_url(devstack.redis.url_of(61)) as client:
            assert await client.getdel("key") == b"1"
        async with await aio_pika.connect(devstack.rabbitmq.url) as amqp:
            queue = await (await amqp.channel()).declare_queue(
                "gateway.durable", passive=True
            )  # fails if it does not exist
            await queue.delete(
                if_empty=False
            )  # RabbitMQ 4.0 may recover the queue as not empty, although it has no message


class TestPostgreSQL:
    async def test_role_and_database(self, postgresql_server: PostgreSQLServer) -> None:
        """The role of the URL owns nothing and may not create tables. The owner may, and is no superuser."""
        async with connected(postgresql_server.url) as connection:
            assert await connection.fetchval("SELECT current_user || '@' || current_database()") == "gateway@gateway"
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute("CREATE TABLE mine (id integer)")
        async with connected(postgresql_server.owner_url) as connection:
            await connection.execute("CREATE TABLE mine (id integer)")
            await connection.execute("DROP TABLE mine")
            assert not await connection.fetchval("SELECT usesuper FROM pg_user WHERE usename = current_user")

    async def test_locale_knows_all_letters(self, postgresql_server: PostgreSQLServer) -> None:
        """The locale folds the case of letters outside ASCII."""
        async with connected(postgresql_server.url) as connection:
            assert await connection.fetchval("SELECT lower('ZÜRICH')") == "zürich"

    async def test_committed_data_survives_kill(self, postgresql_server: PostgreSQLServer) -> None:
        """A transaction that was committed immediately before a kill is there after the next start."""
        url = await postgresql_server.create_database("survives")
        async with connected(url) as connection:
            await connection.execute("CREATE TABLE committed (id integer)")
            await connection.execute("INSERT INTO committed VALUES (1)")
            postgresql_server.kill()

        await postgresql_server.start()

        async with connected(url) as connection:
            assert await connection.fetchval("SELECT id FROM committed") == 1
        await postgresql_server.drop_database("survives")

    async def test_database_from_template(self, postgresql_server: PostgreSQLServer) -> None:
        """A database that is created from a template has its tables. It can be dropped while a client is connected."""
        template = await postgresql_server.create_database("template")
        async with connected(template) as connection:
            await connection.execute("CREATE TABLE copied AS SELECT 1 AS id")

        url = await postgresql_server.create_database("copy", template="template")

        async with connected(url) as connection:
            assert await connection.fetchval("SELECT id FROM copied") == 1
            await postgresql_server.drop_database("copy")
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
                await connection.fetchval("SELECT 1")
        await postgresql_server.drop_database("template")

    async def test_clients(self, postgresql_server: PostgreSQLServer) -> None:
        """`clients` lists a connection by its name."""
        async with connected(postgresql_server.url, "gateway-1"):
            assert "gateway-1" in await postgresql_server.clients()


class TestRedis:
    async def test_password_is_required(self, redis_server: RedisServer) -> None:
        """A client without a password is rejected."""
        async with Redis.from_url(f"redis://{ports.LOOPBACK}:{redis_server.port}") as client:
            with pytest.raises(AuthenticationError):
                await client.ping()

    async def test_databases_are_separate(self, redis_server: RedisServer) -> None:
        """A key of one database is not in another one."""
        async with (
            Redis.from_url(redis_server.url_of(62)) as one,
            Redis.from_url(redis_server.url_of(63)) as other,
        ):
            await one.set("key", "value")
            assert await other.get("key") is None
            await one.flushdb()

    async def test_restart_keeps_port_and_data(self, redis_server: RedisServer) -> None:
        """After a restart, the server has the same port and data."""
        async with Redis.from_url(redis_server.url_of(61)) as client:
            await client.set("key", "value")
            port = redis_server.port

            await redis_server.restart()

            assert redis_server.port == port
            await client.connection_pool.disconnect()
            assert await client.getdel("key") == b"value"

    async def test_clients(self, redis_server: RedisServer) -> None:
        """`clients` lists a connection by its name."""
        async with Redis.from_url(redis_server.url, client_name="gateway-1") as client:
            await client.ping()
            assert "gateway-1" in await redis_server.clients()


async def ignore(message: object) -> None:
    del message


class TestRabbitMQ:
    async def test_vhost_is_added_and_deleted(self, rabbitmq_server: RabbitMQServer) -> None:
        """A new vhost can be used, its connections are listed, and once it is deleted it rejects connections."""
        name = f"vhost/{secrets.token_hex(4)}"
        url = await rabbitmq_server.add_vhost(name)
        async with await aio_pika.connect(url, client_properties={"connection_name": "gateway-1"}) as connection:
            channel = await connection.channel()
            await channel.declare_queue("here", exclusive=True)
            assert "gateway-1" in await rabbitmq_server.clients()

        await rabbitmq_server.delete_vhost(name)

        async with aio_pika.Connection(make_url(url)) as rejected:
            with pytest.raises(aio_pika.exceptions.AMQPError):
                await rejected.connect(timeout=TIMEOUT)

    async def test_rights(self, rabbitmq_server: RabbitMQServer) -> None:
        """The user is no administrator, and may use only the names that begin with `gateway.`."""
        users = "rabbit_auth_backend_internal:list_users()"
        tags = "[atom_to_list(Tag) || Tag <- proplists:get_value(tags, User)]"
        rows = await rabbitmq_server._rows(f"[[proplists:get_value(user, User) | {tags}] || User <- {users}]")
        assert ["gateway"] in rows

        async with await aio_pika.connect(rabbitmq_server.url) as connection:
            with pytest.raises(ChannelAccessRefused):
                await (await connection.channel()).declare_queue("gatewayed", exclusive=True)

    async def test_list_client_objects(self, rabbitmq_server: RabbitMQServer) -> None:
        """Channels and consumers are listed by the name of their connection."""
        connection = await aio_pika.connect(rabbitmq_server.url, client_properties={"connection_name": "gateway-2"})
        async with connection:
            channel = await connection.channel()
            queue = await channel.declare_queue("gateway.here", exclusive=True)
            await queue.consume(ignore)
            await connection.channel()
            objects = await rabbitmq_server.list_client_objects()

        assert objects["connections"].count("gateway-2") == 1
        assert objects["channels"].count("gateway-2") == 2
        assert objects["consumers"].count("gateway-2") == 1


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
    """A folder for a server of this test."""
    return devstack_folder / secrets.token_hex(4)


class TestStart:
    async def test_exit_shows_end_of_log(self, folder: Path) -> None:
        """If the process exits, the error has its status and the last 15 lines of its log."""
        with pytest.raises(DevstackError) as failure:
            async with Stub(folder, "seq 100; exit 7"):
                pytest.fail("it started")

        lines = str(failure.value).splitlines()
        assert lines[0] == "Stub exited with status 7 while starting"
        assert lines[1:] == [f"  | {number}" for number in range(86, 101)]

    async def test_timeout(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """If it never gets ready, the start fails after the timeout, and no process is left."""
        monkeypatch.setattr(server, "START_TIMEOUT", 0.1)

        with pytest.raises(DevstackError, match=r"^Stub is not ready after 0.1 s, and printed nothing$"):
            async with Stub(folder, "sleep 60 & wait"):
                pytest.fail("it started")

        assert reaper.find_processes(folder) == []

    async def test_port_in_use_is_replaced(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """If another process listens on the reserved port, the server starts on a new one."""
        reserve = ports.reserve
        with socket.create_server((ports.LOOPBACK, 0)) as other:
            in_use = [other.dup()]
            monkeypatch.setattr(ports, "reserve", lambda: in_use.pop() if in_use else reserve())

            async with RedisServer(folder) as started:
                assert started.port != other.getsockname()[1]
                await wait_until(started.is_ready, "it is ready")

    async def test_gives_up_after_five_ports(self, folder: Path) -> None:
        """If each of five ports is in use, the start fails."""
        with pytest.raises(PortInUseError, match="Address already in use"):
            async with Stub(folder, "echo run >>runs; echo bind: Address already in use; exit 1") as stub:
                pytest.fail(f"it started on {stub.port}")

        assert (folder / "runs").read_text().count("run") == 5


class TestStop:
    async def test_ignored_signal(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A process that ignores the stop signal is killed after the timeout."""
        monkeypatch.setattr(server, "STOP_TIMEOUT", 0.1)
        ready = folder / "ready"
        async with Stub(folder, "trap '' TERM; : >ready; while :; do sleep 1; done", ready.exists) as stub:
            pids = reaper.find_processes(folder)
            assert pids

            await stub.stop()

            assert not any(map(alive, pids))

    async def test_suspended_server_handles_the_signal(self, folder: Path) -> None:
        """A suspended server is resumed, so that it handles the stop signal."""
        ready = folder / "ready"
        async with Stub(folder, "trap 'echo bye >>ready; exit' TERM; : >ready; sleep 60 & wait", ready.exists) as stub:
            stub.suspend()

        assert ready.read_text() == "bye\n"

    @pytest.mark.parametrize("down", [Server.killed, Server.stopped])
    async def test_started_again_after_an_error(
        self, folder: Path, down: Callable[[Server], AbstractAsyncContextManager[None]]
    ) -> None:
        """After a block without the server it is started again, even if the block raises."""
        async with Stub(folder, "sleep 60", lambda: True) as stub:
            with pytest.raises(ZeroDivisionError):
                async with down(stub):
                    assert not stub.running
                    raise ZeroDivisionError

            assert stub.running

    async def test_crashed_server(self, folder: Path) -> None:
        """The stop of a server whose processes were killed is no error."""
        async with Stub(folder, "sleep 60", lambda: True) as stub:
            reaper.kill(folder)
            assert not stub.running

    async def test_cancelled_twice(self, folder: Path) -> None:
        """A second cancellation, during the stop, still leaves no process."""
        started, never = asyncio.Event(), asyncio.Event()

        async def run() -> None:
            async with Stub(folder, "trap '' TERM; while :; do sleep 1; done", lambda: True):
                started.set()
                await never.wait()

        task = asyncio.create_task(run())
        await started.wait()
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert reaper.find_processes(folder) == []


class TestRun:
    async def test_returns_output(self, redis_server: RedisServer) -> None:
        """The output of a tool is returned. The tool runs in the folder of the server."""
        assert await redis_server.run("pwd") == f"{redis_server.folder}\n"

    async def test_failure_shows_status_and_output(self, redis_server: RedisServer) -> None:
        """The error of a tool that fails has its status and output."""
        with pytest.raises(DevstackError, match=r"^Redis: sh failed with status 3\n  \| no$"):
            await redis_server.run("sh", "-c", "echo no; exit 3")

    async def test_timeout(self, redis_server: RedisServer) -> None:
        """A tool that hangs is killed after the timeout."""
        with pytest.raises(DevstackError, match=r"^Redis: sleep took more than 0.05 s, and printed nothing$"):
            await redis_server.run("sleep", "60", timeout=0.05)

    def test_missing_program(self) -> None:
        """The error for a missing program names the package to install."""
        with pytest.raises(DevstackError, match=r"^no-such-server is not installed; on Debian: apt-get install it$"):
            find_program("no-such-server", package="it")


class TestPorts:
    def test_reserved_port_is_exclusive(self) -> None:
        """A reserved port cannot be bound."""
        with ports.reserve() as reserved, socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(reserved.getsockname())

    def test_below_the_ports_of_clients(self) -> None:
        """A reserved port is below the range of the ports for outgoing connections."""
        lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])

        with ports.reserve() as reserved:
            assert reserved.getsockname()[1] < lowest
