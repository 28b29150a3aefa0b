"""Server rejections: what real servers answer when they refuse a client, and what becomes of the startup."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path

import asyncpg
import pytest
from aio_pika import Channel, Message
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import ChannelInvalidStateError, ChannelNotFoundEntity
from redis.asyncio import Redis as RedisClient
from redis.exceptions import ReadOnlyError

from gateway.devstack.postgresql import RUNTIME_ROLE, PostgreSQLServer
from gateway.devstack.redis import RedisServer
from gateway.events.channels import open_channel
from gateway.lifecycle import StartTimeoutError
from gateway.resources.base import PermanentError
from gateway.schema.migrate import migrate
from gateway.settings import Settings
from tests.end_to_end.harness import ZURICH
from tests.faults.harness import FaultLab, retries_captured
from tests.faults.lifespan_run import LifespanRun
from tests.support.entries import CONNECTED, entries_before
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_broker_leaks")

LONG_TIMEOUT = 60.0  # for a startup that waits until a server accepts clients
MAX_REJECTION = 5.0  # a permanent error is not retried until the start timeout of 10 s; other timeouts here are 2 s

_numbers = count(1)


def url_parts(settings: Settings) -> dict[str, str]:
    """Return the address and the credentials in the URL of each resource, by names such as `redis_credentials`."""
    parts: dict[str, str] = {}
    for name in CONNECTED:
        credentials, _, rest = getattr(settings, name).url.get_secret_value().partition("@")
        parts |= {name: rest.partition("/")[0], f"{name}_credentials": credentials}
    return parts


REJECTED_URLS = [
    ("wrong user", "database", "postgresql+asyncpg://stranger:wrong@{database}/gateway", "user or password"),
    ("wrong password", "database", "postgresql+asyncpg://gateway:wrong@{database}/gateway", "user or password"),
    ("unknown database", "database", "{database_credentials}@{database}/nowhere", "no such database"),
    ("not migrated", "database", "{empty}", "gateway migrate"),
    ("wrong password", "redis", "redis://gateway:wrong@{redis}/0", "user, password"),
    ("no password (NOAUTH)", "redis", "redis://{redis}/0", "user, password"),
    ("unknown database", "redis", "{redis_credentials}@{redis}/9999", "database number"),
    ("wrong password", "rabbitmq", "amqp://gateway:wrong@{rabbitmq}/gateway", "user or password"),
    ("unknown vhost", "rabbitmq", "{rabbitmq_credentials}@{rabbitmq}/nowhere", "virtual host"),
]


@pytest.mark.parametrize(
    ("entry", "template", "advice"),
    [pytest.param(*case, id=f"{case[0]}-{reason}") for reason, *case in REJECTED_URLS],
)
async def test_rejected_url(lab: FaultLab, empty_database: str, entry: str, template: str, advice: str) -> None:
    """A wrong URL fails the startup at once; the error names the setting and the fix."""
    lab.override(entry, url=template.format(**url_parts(lab.settings), empty=empty_database))
    run = await lab.start_and_stop()

    assert run.start_error.name == entry
    assert run.start_error.entered == tuple(entries_before(entry))
    assert isinstance(run.start_error.__cause__, PermanentError)
    assert f"GATEWAY_{entry.upper()}__URL" in str(run.start_error.__cause__)
    assert advice in str(run.start_error.__cause__)
    assert run.startup_duration < MAX_REJECTION
    assert run.teardown_errors == []
    assert run.exited == [*reversed(run.entered)]
    assert await lab.leaks() == []


@pytest.mark.entry("redis")
async def test_start_timeout_names_the_last_failure(lab: FaultLab) -> None:
    """The error of a start timeout has the last failure of the retries as its cause."""
    lab.override("redis", url="redis://127.0.0.1:1/0", start_timeout=0.3)
    run = await lab.start_and_stop()

    assert isinstance(run.start_error.__cause__, StartTimeoutError)
    assert "Connect call failed" in str(run.start_error.__cause__.__cause__)
    assert_rejected(run, "redis")
    assert await lab.leaks() == []


def assert_rejected(run: LifespanRun, entry: str) -> None:
    """The startup failed at this entry, and everything before it exited in reverse order."""
    assert run.start_error.name == entry
    assert run.start_error.entered == tuple(entries_before(entry))
    assert run.startup_duration < MAX_REJECTION
    assert run.teardown_errors == []
    assert run.exited == [*reversed(entries_before(entry))]


async def start_during(
    lab: FaultLab, rejection: AbstractAsyncContextManager[object], *, retry_error: str
) -> LifespanRun:
    """Start while the server rejects clients, and end the rejection after the startup has met it."""
    with retries_captured() as errors:
        async with asyncio.TaskGroup() as group, rejection:
            starting = group.create_task(lab.start_and_stop())
            await wait_until(
                lambda: any(retry_error in error for error in errors), f"the startup retries after {retry_error!r}"
            )
            assert not starting.done()
    return await starting


async def assert_disconnected(server: PostgreSQLServer | RedisServer, instance: str) -> None:
    """A server of the tests' own has no connection of the instance left."""

    async def disconnected() -> bool:
        return not [name for name in await server.clients() if name.startswith(instance)]

    await wait_until(disconnected, f"{server.name} has no connection of {instance}")


class SmallPostgreSQL(PostgreSQLServer):
    """A PostgreSQL with few connections, which can be kept in its recovery."""

    def command(self) -> list[str]:
        # The recovery requests a file from the archive, and waits for as long as the file `waiting` exists.
        archive = f"while test -e {self.folder / 'waiting'}; do sleep 0.02; done; false"
        return [*super().command(), "--max_connections=6", "--wal_level=replica", f"--restore_command={archive}"]

    @asynccontextmanager
    async def starting_up(self) -> AsyncIterator[None]:
        """Inside the block, the server recovers from a crash and rejects clients."""
        self.kill()
        self.write("data/recovery.signal", "")
        waiting = self.write("waiting", "")
        starting = asyncio.create_task(self.start())
        try:
            yield
        finally:
            waiting.unlink()
            await starting

    @asynccontextmanager
    async def full(self) -> AsyncIterator[None]:
        """Inside the block, other clients have all connections."""
        async with AsyncExitStack() as others:
            try:
                while True:
                    await others.enter_async_context(self.superuser())
            except asyncpg.TooManyConnectionsError:
                yield


@pytest.fixture(scope="module")
async def small_postgresql(devstack_folder: Path) -> AsyncIterator[SmallPostgreSQL]:
    async with SmallPostgreSQL(devstack_folder / "small_postgresql") as server:
        await migrate(server.owner_url, grant_to=RUNTIME_ROLE)
        yield server


@asynccontextmanager
async def shutting_down(server: PostgreSQLServer) -> AsyncIterator[None]:
    """Inside the block, the server shuts down: it waits for one open connection and rejects new ones."""

    async def rejects() -> bool:
        try:
            async with server.superuser():
                return False
        except asyncpg.CannotConnectNowError:
            return True

    try:
        async with server.superuser():
            server.send_signal(signal.SIGTERM)
            await wait_until(rejects, "PostgreSQL rejects new connections")
            yield
    finally:
        await server.restart()


@pytest.mark.entry("database")
class TestPostgreSQL:
    async def test_database_out_of_connections(self, lab: FaultLab, empty_database: str) -> None:
        """A database without a free connection (53300) is retried until the start timeout, which names it."""
        lab.override("database", url=empty_database, start_timeout=2)
        async with lab.servers.postgresql.superuser() as superuser:
            await superuser.execute(f'ALTER DATABASE "{empty_database.rpartition("/")[2]}" CONNECTION LIMIT 0')
        run = await lab.start_and_stop()

        assert isinstance(run.start_error.__cause__, StartTimeoutError)
        assert "too many connections" in str(run.start_error.__cause__.__cause__)
        assert_rejected(run, "database")
        assert await lab.leaks() == []

    async def test_server_out_of_connections(self, lab: FaultLab, small_postgresql: SmallPostgreSQL) -> None:
        """A server without a free connection (53300) is retried, and the startup succeeds as soon as there is one."""
        lab.override("database", url=small_postgresql.url, start_timeout=LONG_TIMEOUT)
        run = await start_during(lab, small_postgresql.full(), retry_error="sorry, too many clients already")

        assert run.is_clean
        assert await lab.leaks() == []
        await assert_disconnected(small_postgresql, lab.settings.instance)

    async def test_server_starting_up(self, lab: FaultLab, small_postgresql: SmallPostgreSQL) -> None:
        """A server that is starting up (57P03) is retried, and the startup succeeds as soon as it is up."""
        lab.override("database", url=small_postgresql.url, start_timeout=LONG_TIMEOUT)
        retry_error = "the database system is starting up"
        run = await start_during(lab, small_postgresql.starting_up(), retry_error=retry_error)

        assert run.is_clean
        assert await lab.leaks() == []
        await assert_disconnected(small_postgresql, lab.settings.instance)

    async def test_server_shutting_down(self, lab: FaultLab) -> None:
        """A server that is shutting down (57P03) is retried until the start timeout, which names it."""
        lab.override("database", start_timeout=2)
        async with shutting_down(lab.servers.postgresql):
            run = await lab.start_and_stop()

        assert isinstance(run.start_error.__cause__, StartTimeoutError)
        assert "shutting down" in str(run.start_error.__cause__.__cause__)
        assert_rejected(run, "database")
        assert await lab.leaks() == []


class SlowRedis(RedisServer):
    """A Redis that takes 20 ms to load a key, and answers in between."""

    def command(self) -> list[str]:
        slowly = ["--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024"]
        return [*super().command(), *slowly, "--rdbcompression", "no"]

    @asynccontextmanager
    async def loading(self) -> AsyncIterator[None]:
        """Inside the block, the server loads its data, which takes 20 s if the block does not end before."""
        async with RedisClient.from_url(self.url) as client:
            await client.mset({f"key-{number}": "x" * 1024 for number in range(1000)})
            await client.bgrewriteaof()  # the delay applies to the keys of a snapshot only

            async def rewritten() -> bool:
                return not (await client.info("persistence"))["aof_rewrite_in_progress"]

            await wait_until(rewritten, "the snapshot is written")
        self.kill()
        starting = asyncio.create_task(self.start())
        try:
            yield
            async with RedisClient.from_url(self.url) as client:
                await client.config_set("key-load-delay", 0)
        finally:
            await starting


@pytest.fixture(scope="module")
async def slow_redis(devstack_folder: Path) -> AsyncIterator[SlowRedis]:
    async with SlowRedis(devstack_folder / "slow_redis") as server:
        yield server


@pytest.mark.entry("redis")
class TestRedis:
    async def test_server_loading(self, lab: FaultLab, slow_redis: SlowRedis) -> None:
        """A server that loads its data (LOADING) is retried, and the startup succeeds as soon as that is done."""
        lab.override("redis", url=slow_redis.url, start_timeout=LONG_TIMEOUT)
        run = await start_during(lab, slow_redis.loading(), retry_error="BusyLoadingError")

        assert run.is_clean
        assert await lab.leaks() == []
        await assert_disconnected(slow_redis, lab.settings.instance)

    async def test_server_out_of_clients(self, lab: FaultLab, slow_redis: SlowRedis) -> None:
        """A server that has too many clients is retried until the start timeout, which names it."""
        lab.override("redis", url=slow_redis.url, start_timeout=2)
        async with RedisClient.from_url(slow_redis.url, single_connection_client=True) as client:
            await client.config_set("maxclients", 1)
            try:
                run = await lab.start_and_stop()
            finally:
                await client.config_set("maxclients", 1000)

        assert isinstance(run.start_error.__cause__, StartTimeoutError)
        assert "max number of clients" in str(run.start_error.__cause__.__cause__)
        assert_rejected(run, "redis")
        assert await lab.leaks() == []
        await assert_disconnected(slow_redis, lab.settings.instance)

    async def test_read_only_replica(self, lab: FaultLab, slow_redis: SlowRedis) -> None:
        """With a read-only replica, the gateway starts and serves what it reads."""
        lab.override("redis", url=slow_redis.url)
        async with RedisClient.from_url(slow_redis.url) as client:
            await client.replicaof("127.0.0.1", "1")
            try:
                async with lab.running() as run:
                    brief = await run.services.briefs.get(ZURICH)
                    with pytest.raises(ReadOnlyError):
                        await run.services.redis.set("written", "never")
            finally:
                await client.replicaof("NO", "ONE")

        assert brief is not None
        assert brief.sections.popularity.status == "ok"
        assert run.is_clean
        assert await lab.leaks() == []
        await assert_disconnected(slow_redis, lab.settings.instance)


@pytest.mark.entry("rabbitmq")
class TestRabbitMQ:
    async def test_forbidden_vhost(self, lab: FaultLab) -> None:
        """A virtual host that the user may not access fails the startup at once, and the error names the fix."""
        name = f"forbidden-{next(_numbers)}"
        lab.override("rabbitmq", url=await lab.servers.rabbitmq.add_vhost(name, rights=None))
        try:
            run = await lab.start_and_stop()
        finally:
            await lab.servers.rabbitmq.delete_vhost(name)

        assert isinstance(run.start_error.__cause__, PermanentError)
        assert "virtual host" in str(run.start_error.__cause__)
        assert_rejected(run, "rabbitmq")
        assert await lab.leaks() == []

    async def test_blocked_publishers(self, lab: FaultLab) -> None:
        """A broker that blocks publishers (memory alarm) fails no startup, and a blocked publish delays no teardown."""

        async def publish(connection: AbstractConnection) -> None:
            channel = Channel(connection)
            await channel.initialize()
            await channel.default_exchange.publish(Message(b"x"), "nowhere")

        async with lab.servers.rabbitmq.memory_alarm():
            async with lab.running() as run:
                publishing = asyncio.create_task(publish(run.services.rabbitmq.connection))
                done, _ = await asyncio.wait({publishing}, timeout=0.3)
                assert not done
            publishing.cancel()  # the library does not end the call
            await asyncio.wait({publishing})

        assert run.teardown_duration < lab.settings.rabbitmq.stop_timeout
        assert run.released == [*reversed(run.entered)]
        assert run.outcomes_except("rabbitmq") == {"exited"}
        assert run.error is None
        assert await lab.leaks() == []

    async def test_channel_closed_by_server(self, lab: FaultLab) -> None:
        """After the broker has closed the channel for a missing exchange, the teardown is clean."""
        async with lab.running() as run:
            channel = await open_channel(run.services.rabbitmq.connection, confirms=True)
            exchange = await channel.get_exchange("gateway.missing", ensure=False)
            with pytest.raises((ChannelNotFoundEntity, ChannelInvalidStateError)):
                await exchange.publish(Message(b"x"), "nowhere")

        assert run.error is None
        assert run.released == [*reversed(run.entered)]
        assert run.outcomes_except("rabbitmq") == {"exited"}
        assert await lab.leaks() == []
