"""The probe of Redis: a server that cannot do the work is found at the start and by the health check."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.briefs.popularity import add_views
from gateway.briefs.queries import fetch_cached, weather_key
from gateway.devstack.redis import RedisServer
from gateway.events.messages import BriefViewed, ViewCounts
from gateway.resources.base import DegradedError, PermanentError
from gateway.resources.redis import RedisPool
from gateway.resources.redis_probe import RIGHTS, UnsuitableServerError
from gateway.settings import RedisSettings
from tests.support.waiting import wait_until


def pool(url: str) -> RedisPool:
    return RedisPool(RedisSettings.model_validate({"url": url}), "probe")


async def start_error(url: str) -> str:
    """Return the message of the permanent error with which the start fails."""
    with pytest.raises(PermanentError) as caught:
        async with pool(url).open():
            pass
    return str(caught.value)


@pytest.fixture(scope="module")
async def server(devstack_folder: Path) -> AsyncIterator[RedisServer]:
    """A server whose configuration the tests of this module change and restore."""
    async with RedisServer(devstack_folder / "probed_redis") as server:
        yield server


@pytest.fixture
async def admin(server: RedisServer) -> AsyncIterator[Redis]:
    async with Redis.from_url(server.url) as client:
        yield client


class ClusterNode(RedisServer):
    """A Redis in cluster mode. The second port is for the other nodes."""

    number_of_ports = 2

    def command(self) -> list[str]:
        return [*super().command(), "--cluster-enabled", "yes", "--cluster-port", str(self.ports[1])]


@pytest.mark.parametrize("has_slots", [False, True])
async def test_cluster(devstack_folder: Path, has_slots: bool) -> None:
    """A node of a Redis Cluster fails the start at once, before it has slots and after."""
    async with ClusterNode(devstack_folder / f"cluster_{has_slots}") as node:
        if has_slots:
            async with Redis.from_url(node.url) as client:
                await client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)  # type: ignore[no-untyped-call]

        error = await start_error(node.url)

    assert error.startswith("GATEWAY_REDIS__URL: the server at 127.0.0.1:")
    assert "Redis Cluster is not supported" in error


class Rights:
    """A user of a server with some rights."""

    def __init__(self, admin: Redis, server: RedisServer) -> None:
        self._admin = admin
        self._port = server.port

    async def set(self, rights: str) -> None:
        rules = ["reset", "on", ">secret", *rights.split()]
        await self._admin.execute_command("ACL", "SETUSER", "limited", *rules)  # type: ignore[no-untyped-call]

    @property
    def url(self) -> str:
        return f"redis://limited:secret@127.0.0.1:{self._port}/3"


@pytest.fixture
async def rights(admin: Redis, server: RedisServer) -> AsyncIterator[Rights]:
    yield Rights(admin, server)
    await admin.acl_deluser("limited")


async def test_documented_rights_suffice(rights: Rights) -> None:
    """A user with the rights that the message names can do all that the gateway and the worker do."""
    await rights.set(RIGHTS)
    async with pool(rights.url).open() as redis:
        await redis.set(weather_key(1), "", ex=1)
        await add_views(redis, BriefViewed.create(ViewCounts(views={1: 2})))
        assert (await fetch_cached(redis, [1]))[1].views == b"2"


MISSING_RIGHTS = {
    "~weather:*": "SET of weather:*",
    "~popularity:*": "MGET of weather:* and popularity:*",
    "~consumed:*": "EVAL of consumed:* and popularity:*",
    "+mget": "'mget' command",
    "+set": "'set' command",
    "+eval": "'eval' command",
    "+incrby": "EVAL of consumed:* and popularity:* with SET, INCRBY and DEL",
    "+del": "EVAL of consumed:* and popularity:* with SET, INCRBY and DEL",
    "+client|setname": "'client|setname' command",
    "+select": "'select' command",
}


@pytest.mark.parametrize(("right", "named"), MISSING_RIGHTS.items())
async def test_missing_right_fails_start(rights: Rights, right: str, named: str) -> None:
    """A user without one of the rights fails the start at once; the error names it and all that are needed."""
    await rights.set(RIGHTS.replace(right, ""))

    error = await start_error(rights.url)

    assert error.startswith("GATEWAY_REDIS__URL: ")
    assert named in error
    assert RIGHTS in error
    assert "secret" not in error


def test_each_right_is_tested() -> None:
    """The test above leaves out none of the rights."""
    assert [*MISSING_RIGHTS] == RIGHTS.split()


def test_rights_are_documented() -> None:
    """The documentation has the rule for a user with these rights."""
    assert (
        f"ACL SETUSER gateway on >PASSWORD {RIGHTS}\n" in (Path(__file__).parents[2] / "docs" / "redis.md").read_text()
    )


async def test_revoked_right_fails_check(rights: Rights) -> None:
    """A right that is revoked while the gateway runs fails the health check, and one that is granted ends that."""
    await rights.set(RIGHTS)
    resource = pool(rights.url)
    async with resource.open():
        await rights.set(RIGHTS.replace("+incrby", ""))
        with pytest.raises(UnsuitableServerError, match=r"no right to EVAL .* with SET, INCRBY and DEL"):
            await resource.check()

        await rights.set(RIGHTS)
        assert await resource.check() is not None


@asynccontextmanager
async def configured(admin: Redis, name: str, value: str, default: str) -> AsyncIterator[None]:
    await admin.config_set(name, value)
    try:
        yield
    finally:
        await admin.config_set(name, default)


def out_of_memory(admin: Redis, server: RedisServer) -> AbstractAsyncContextManager[None]:
    del server
    return configured(admin, "maxmemory", "1", "0")


def without_replicas(admin: Redis, server: RedisServer) -> AbstractAsyncContextManager[None]:
    del server
    return configured(admin, "min-replicas-to-write", "1", "0")


@asynccontextmanager
async def read_only(admin: Redis, server: RedisServer) -> AsyncIterator[None]:
    del server
    await admin.replicaof("127.0.0.1", "1")
    try:
        yield
    finally:
        await admin.replicaof("NO", "ONE")


@asynccontextmanager
async def disk_failing(admin: Redis, server: RedisServer) -> AsyncIterator[None]:
    """Snapshots fail, because the server may not write to its folder."""

    async def failed() -> bool:
        return bool((await admin.info("persistence"))["rdb_last_bgsave_status"] == "err")

    server.folder.chmod(0o500)
    try:
        async with configured(admin, "save", "3600 1", ""):
            await admin.bgsave()
            await wait_until(failed, "a snapshot has failed")
            yield
    finally:
        server.folder.chmod(0o700)
        await admin.bgsave()


State = Callable[[Redis, RedisServer], AbstractAsyncContextManager[None]]


@pytest.mark.parametrize(
    ("state", "named"),
    [
        (out_of_memory, "OutOfMemoryError"),
        (without_replicas, "NOREPLICAS"),
        (read_only, "ReadOnlyError"),
        (disk_failing, "MISCONF"),
    ],
)
async def test_rejected_writes_degrade(server: RedisServer, admin: Redis, state: State, named: str) -> None:
    """A server that accepts no writes fails the health check and no start. The check succeeds when it accepts them again."""
    resource = pool(server.url)
    async with state(admin, server), resource.open() as redis:
        with pytest.raises(DegradedError, match=named):
            await resource.check()
        assert await redis.mget("weather:1", "popularity:1") == [None, None]

    async def succeeds() -> bool:
        try:
            return await resource.check() is not None
        except DegradedError:
            return False

    async with resource.open():
        await wait_until(succeeds, "the check succeeds")
