"""The servers' own refusals, from the real servers: what they say when they will not have us, and what becomes of the start."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path

import asyncpg
import pytest
from aio_pika import Message
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError, ChannelNotFoundEntity
from redis.asyncio import Redis as RedisClient
from redis.exceptions import ReadOnlyError

from gateway.app import create_app
from gateway.devstack.postgresql import PostgreSQL
from gateway.devstack.redis import Redis
from gateway.lifecycle import StartError, StartTimeoutError
from gateway.resources.opening import PermanentError
from gateway.schema.migrate import migrate
from gateway.settings import Settings
from tests.end_to_end.running import ZURICH, until
from tests.faults.stage import Stage, live, living, with_setting

pytestmark = pytest.mark.usefixtures("census")

_numbers = count(1)


def parts_of(settings: Settings) -> dict[str, str]:
    """The URLs of the settings in pieces: of each the address, and what is before it."""
    parts: dict[str, str] = {}
    for name in ("database", "redis", "rabbitmq"):
        credentials, _, rest = getattr(settings, name).url.get_secret_value().partition("@")
        parts |= {name: rest.partition("/")[0], f"{name}_credentials": credentials}
    return parts


PERMANENT = {
    "wrong user": ("database", "postgresql+asyncpg://nobody:wrong@{database}/gateway", "user or password"),
    "wrong password": ("database", "postgresql+asyncpg://gateway:wrong@{database}/gateway", "user or password"),
    "unknown database": ("database", "{database_credentials}@{database}/nowhere", "no such database"),
    "not migrated": ("database", "{empty}", "gateway migrate"),
    "wrong Redis password": ("redis", "redis://gateway:wrong@{redis}/0", "user, password"),
    "no password (NOAUTH)": ("redis", "redis://{redis}/0", "user, password"),
    "unknown Redis database": ("redis", "{redis_credentials}@{redis}/9999", "database number"),
    "wrong RabbitMQ password": ("rabbitmq", "amqp://gateway:wrong@{rabbitmq}/gateway", "user or password"),
    "unknown vhost": ("rabbitmq", "{rabbitmq_credentials}@{rabbitmq}/nowhere", "virtual host"),
}


@pytest.mark.parametrize("fault", PERMANENT)
async def test_what_a_person_has_to_mend_fails_at_once_and_says_what_to_do(
    stage: Stage, empty_database: str, fault: str
) -> None:
    name, template, advice = PERMANENT[fault]
    parts = parts_of(stage.settings) | {"empty": empty_database}
    error = await stage.refused(with_setting(stage.settings, name, url=template.format(**parts)), name, fault)

    assert isinstance(error.__cause__, PermanentError)
    assert f"GATEWAY_{name.upper()}__URL" in str(error.__cause__)
    assert advice in str(error.__cause__)


async def test_the_deadlines_error_says_what_was_in_the_way(stage: Stage) -> None:
    nobody = with_setting(stage.settings, "redis", url="redis://127.0.0.1:1/0", start_timeout=0.3)
    error = await stage.refused(nobody, "redis", "refused")

    assert isinstance(error.__cause__, StartTimeoutError)
    assert "Connect call failed" in str(error.__cause__.__cause__)


class OtherPostgreSQL(PostgreSQL):
    """A PostgreSQL for these tests alone, with few connections, and with an archive that keeps it waiting."""

    def command(self) -> list[str]:
        # Asked for what is not there it says so, but not as long as the file `waiting` is.
        archive = f"while test -e {self.folder / 'waiting'}; do sleep 0.02; done; false"
        return [*super().command(), "--max_connections=6", "--wal_level=replica", f"--restore_command={archive}"]

    @asynccontextmanager
    async def starting_up(self) -> AsyncIterator[None]:
        """Within the block it recovers what it had when it was killed: until then it is starting up."""
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
        """Within the block somebody else has all of its connections."""
        async with AsyncExitStack() as others:
            try:
                while True:
                    await others.enter_async_context(self.superuser())
            except asyncpg.TooManyConnectionsError:
                yield


@pytest.fixture(scope="module")
async def other_postgresql(devstack_folder: Path) -> AsyncIterator[OtherPostgreSQL]:
    async with OtherPostgreSQL(devstack_folder / "other_postgresql") as server:
        await migrate(server.url)
        yield server


class TestPostgreSQL:
    async def test_whose_database_has_no_connection_left_is_waited_for_until_the_deadline(
        self, stage: Stage, empty_database: str
    ) -> None:
        full = with_setting(stage.settings, "database", url=empty_database, start_timeout=2)
        async with stage.servers.postgresql.superuser() as superuser:
            await superuser.execute(f'ALTER DATABASE "{empty_database.rpartition("/")[2]}" CONNECTION LIMIT 0')
        error = await stage.refused(full, "database", "out of connections: the database (53300)")

        assert isinstance(error.__cause__, StartTimeoutError)
        assert "too many connections" in str(error.__cause__.__cause__)

    async def test_that_has_no_connection_left_is_waited_for(
        self, stage: Stage, other_postgresql: OtherPostgreSQL
    ) -> None:
        patient = with_setting(stage.settings, "database", url=other_postgresql.url, start_timeout=25)
        fault = "out of connections: the server (53300)"
        await stage.lives_through(
            other_postgresql.full(),
            patient,
            "database",
            fault,
            meets="sorry, too many clients already",
        )
        await nobody_is_connected(other_postgresql, stage.settings.instance)

    async def test_that_is_starting_up_is_waited_for(self, stage: Stage, other_postgresql: OtherPostgreSQL) -> None:
        patient = with_setting(stage.settings, "database", url=other_postgresql.url, start_timeout=25)
        await stage.lives_through(
            other_postgresql.starting_up(),
            patient,
            "database",
            "starting up (57P03)",
            meets="the database system is starting up",
        )
        await nobody_is_connected(other_postgresql, stage.settings.instance)

    async def test_that_is_shutting_down_is_waited_for_until_the_deadline(self, stage: Stage) -> None:
        impatient = with_setting(stage.settings, "database", start_timeout=2)
        async with shutting_down(stage.servers.postgresql):
            app = create_app(impatient)
            with pytest.raises(StartError) as caught:
                await live(app)

        assert caught.value.name == "database"
        assert isinstance(caught.value.__cause__, StartTimeoutError)
        assert "shutting down" in str(caught.value.__cause__.__cause__)
        await stage.proved(app.state.stack.journal, "database", "startup", "shutting down (57P03)")


@asynccontextmanager
async def shutting_down(server: PostgreSQL) -> AsyncIterator[None]:
    """Within the block it is shutting down, which it does for as long as somebody is still connected."""

    async def refuses() -> bool:
        try:
            async with server.superuser():
                return False
        except asyncpg.CannotConnectNowError:
            return True

    try:
        async with server.superuser():
            assert server._process is not None
            server._process.send_signal(signal.SIGTERM)
            await until(refuses, "it refuses new connections")
            yield
    finally:
        await server.restart()


class OtherRedis(Redis):
    """A Redis for these tests alone: they turn it into something else. It takes 20 ms to load a key, and answers after each."""

    def command(self) -> list[str]:
        slowly = ["--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024"]
        return [*super().command(), *slowly, "--rdbcompression", "no"]

    @asynccontextmanager
    async def loading(self) -> AsyncIterator[None]:
        """Within the block it loads its data: by itself that would take 20 s."""
        async with RedisClient.from_url(self.url) as client:
            await client.mset({f"key-{number}": "x" * 1024 for number in range(1000)})
            await client.bgrewriteaof()  # what it loads then is a snapshot, and only of that each key takes its time

            async def rewritten() -> bool:
                return not (await client.info("persistence"))["aof_rewrite_in_progress"]

            await until(rewritten, "the snapshot is written")
        self.kill()
        starting = asyncio.create_task(self.start())
        try:
            yield
            async with RedisClient.from_url(self.url) as client:
                await client.config_set("key-load-delay", 0)
        finally:
            await starting


@pytest.fixture(scope="module")
async def other_redis(devstack_folder: Path) -> AsyncIterator[OtherRedis]:
    async with OtherRedis(devstack_folder / "other_redis") as server:
        yield server


class TestRedis:
    async def test_that_loads_its_data_is_waited_for(self, stage: Stage, other_redis: OtherRedis) -> None:
        patient = with_setting(stage.settings, "redis", url=other_redis.url, start_timeout=25)
        await stage.lives_through(other_redis.loading(), patient, "redis", "LOADING", meets="BusyLoadingError")
        await nobody_is_connected(other_redis, stage.settings.instance)

    async def test_that_has_too_many_clients_is_waited_for_until_the_deadline(
        self, stage: Stage, other_redis: OtherRedis
    ) -> None:
        full = with_setting(stage.settings, "redis", url=other_redis.url, start_timeout=2)
        async with RedisClient.from_url(other_redis.url, single_connection_client=True) as client:
            await client.config_set("maxclients", 1)
            try:
                error = await stage.refused(full, "redis", "max clients")
            finally:
                await client.config_set("maxclients", 1000)

        assert "max number of clients" in str(error.__cause__.__cause__ if error.__cause__ else None)
        await nobody_is_connected(other_redis, stage.settings.instance)

    async def test_that_is_a_read_only_replica_serves_what_is_read(self, stage: Stage, other_redis: OtherRedis) -> None:
        async with RedisClient.from_url(other_redis.url) as client:
            await client.replicaof("127.0.0.1", "1")
            try:
                async with living(create_app(with_setting(stage.settings, "redis", url=other_redis.url))) as gateway:
                    brief = await gateway.briefs.about(ZURICH)
                    with pytest.raises(ReadOnlyError):
                        await gateway.redis.set("written", "never")
            finally:
                await client.replicaof("NO", "ONE")
        assert brief is not None
        assert brief.sections.popularity.status == "ok"
        await nobody_is_connected(other_redis, stage.settings.instance)
        await stage.proved(gateway.journal, "redis", "serving", "READONLY")


async def nobody_is_connected(server: PostgreSQL | Redis, instance: str) -> None:
    async def nobody() -> bool:
        return not [name for name in await server.clients() if name.startswith(instance)]

    await until(nobody, f"nobody of {instance} is connected")


class TestRabbitMQ:
    async def test_with_a_vhost_that_is_not_for_us_says_so_at_once(self, stage: Stage) -> None:
        name = f"forbidden-{next(_numbers)}"
        url = await stage.servers.rabbitmq.add_vhost(name, allowed=False)
        try:
            error = await stage.refused(
                with_setting(stage.settings, "rabbitmq", url=url), "rabbitmq", "vhost forbidden"
            )
        finally:
            await stage.servers.rabbitmq.delete_vhost(name)

        assert isinstance(error.__cause__, PermanentError)
        assert "virtual host" in str(error.__cause__)

    async def test_that_blocks_publishers_is_no_failed_start_and_holds_up_no_stop(self, stage: Stage) -> None:
        async with stage.servers.rabbitmq.alarmed():
            async with living(create_app(stage.settings)) as gateway:
                exchange = gateway.rabbitmq.channel.default_exchange
                publishing = asyncio.create_task(exchange.publish(Message(b"x"), "nowhere"))
                done, _ = await asyncio.wait({publishing}, timeout=0.3)
                assert not done
                began = time.monotonic()
            assert time.monotonic() - began < stage.settings.rabbitmq.stop_timeout
            with pytest.raises((AMQPError, asyncio.CancelledError)):
                await publishing
        await stage.proved(gateway.journal, "rabbitmq", "teardown", "blocked (alarm), publish in flight")

    async def test_that_closed_our_channel_for_a_missing_exchange_is_left_cleanly(self, stage: Stage) -> None:
        async with living(create_app(stage.settings)) as gateway:
            exchange = await gateway.rabbitmq.channel.get_exchange("missing", ensure=False)
            with pytest.raises((ChannelNotFoundEntity, ChannelInvalidStateError)):
                await exchange.publish(Message(b"x"), "nowhere")
        await stage.proved(gateway.journal, "rabbitmq", "teardown", "channel closed (missing exchange)")
