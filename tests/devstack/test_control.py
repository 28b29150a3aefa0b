"""The actions of `gateway dev` on its servers: what they do, which ones fit, and how they fail."""

import asyncio
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.devstack import reaper
from gateway.devstack.control import Action, ControlError, ControlFailure, ServerControl, ServerItem
from gateway.devstack.redis import RedisServer
from gateway.devstack.server import ServerStatus
from gateway.devstack.stack import Devstack
from tests.devstack.process_probes import accepts_connections
from tests.support.waiting import wait_until


@pytest.fixture
def reports() -> list[str]:
    return []


@pytest.fixture
def control(redis: RedisServer, reports: list[str]) -> ServerControl:
    return ServerControl({"redis": redis}, report=reports.append)


def item(status: ServerStatus, *actions: str) -> ServerItem:
    return ServerItem(name="redis", entry="redis", status=status, actions=[Action(action) for action in actions])


RUNNING = item(ServerStatus.RUNNING, "suspend", "kill", "restart")
SUSPENDED = item(ServerStatus.SUSPENDED, "resume", "kill", "restart")
STOPPED = item(ServerStatus.STOPPED, "restart")
RESTARTING = item(ServerStatus.STOPPED)


async def test_names_of_the_servers() -> None:
    """Each server of a stack has its own name, and that of the entry that uses it."""
    items = ServerControl(Devstack(Path()).by_name).list_servers()

    assert {it.name: it.entry for it in items} == {
        "weather": "http",
        "postgresql": "database",
        "redis": "redis",
        "rabbitmq": "rabbitmq",
    }


async def test_suspend_and_resume(control: ServerControl, redis: RedisServer) -> None:
    """The processes of a suspended server are stopped; a resumed one responds."""
    suspended = await control.apply("redis", Action.SUSPEND)
    states = {reaper.state(pid) for pid in reaper.find_processes(redis.folder)}
    resumed = await control.apply("redis", Action.RESUME)

    assert (suspended, resumed) == (SUSPENDED, RUNNING)
    assert states == {"T"}
    assert await redis.is_ready()


@pytest.mark.parametrize("before", ["running", "suspended"])
async def test_kill_and_restart(control: ServerControl, redis: RedisServer, before: str) -> None:
    """A killed server is gone; after the restart it has its data and its port again."""
    url = redis.url
    async with Redis.from_url(url) as client:
        await client.set("key", "value")
    if before == "suspended":
        await control.apply("redis", Action.SUSPEND)

    killed = await control.apply("redis", Action.KILL)
    open_after_kill = accepts_connections(redis.port)
    restarted = await control.apply("redis", Action.RESTART)

    assert (killed, restarted) == (STOPPED, RUNNING)
    assert not open_after_kill
    assert redis.url == url
    async with Redis.from_url(url) as client:
        assert await client.get("key") == b"value"


async def test_exited_server_is_stopped(control: ServerControl, redis: RedisServer) -> None:
    """A server that was ended by a person, and not by an action, is stopped, and can be restarted."""
    await redis.stop()

    assert control.list_servers() == [STOPPED]
    assert await control.apply("redis", Action.RESTART) == RUNNING


@pytest.mark.parametrize(("first", "second"), [("suspend", "suspend"), ("kill", "suspend"), ("kill", "kill")])
async def test_action_that_does_not_fit(control: ServerControl, first: str, second: str) -> None:
    """An action that does not fit the status changes nothing. The error lists those that fit."""
    before = await control.apply("redis", Action(first))

    with pytest.raises(ControlError) as raised:
        await control.apply("redis", Action(second))

    assert raised.value.failure is ControlFailure.CONFLICT
    assert raised.value.detail == (
        f"Redis is {before.status}, so {second} is not possible. Possible actions: {', '.join(before.actions)}."
    )
    assert control.list_servers() == [before]


async def test_unknown_server(control: ServerControl) -> None:
    """The error for an unknown name lists the servers."""
    with pytest.raises(ControlError) as raised:
        await control.apply("valkey", Action.KILL)

    assert raised.value.failure is ControlFailure.UNKNOWN_SERVER
    assert raised.value.detail == "There is no server 'valkey'. The servers are redis."


async def test_concurrent_actions(control: ServerControl, reports: list[str]) -> None:
    """Actions on one server wait for each other. Until a restart ends, the server is stopped and has no actions."""
    first, second = (asyncio.create_task(control.apply("redis", Action.RESTART)) for _ in range(2))
    last = asyncio.create_task(control.apply("redis", Action.SUSPEND))
    await wait_until(lambda: control.list_servers() == [RESTARTING], "the restart is visible")

    assert [*await asyncio.gather(first, second, last)] == [RUNNING, RUNNING, SUSPENDED]
    assert [report.partition(" after ")[0] for report in reports] == [
        "Redis: restarting",
        "Redis: ready again",
        "Redis: restarting",
        "Redis: ready again",
        "Redis: suspended",
    ]


async def test_failed_restart(control: ServerControl, redis: RedisServer, reports: list[str]) -> None:
    """If a server does not start, the report has its log, the error does not, and a later restart is possible."""
    config = redis.folder / "redis.conf"
    text = config.read_text()
    config.write_text("nonsense\n")

    with pytest.raises(ControlError) as raised:
        await control.apply("redis", Action.RESTART)

    assert raised.value.failure is ControlFailure.UNAVAILABLE
    assert raised.value.detail == "Redis did not start. The output of `gateway dev` has the reason."
    assert "'nonsense'" in reports[-1]
    assert control.list_servers() == [STOPPED]
    config.write_text(text)
    assert await control.apply("redis", Action.RESTART) == RUNNING


async def test_slow_restart(control: ServerControl, redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart that takes too long is given up: the server is killed, and can be restarted."""

    async def is_never_ready() -> bool:
        return False

    monkeypatch.setattr("gateway.devstack.control.ACTION_TIMEOUT", 0.3)
    monkeypatch.setattr(redis, "probe", is_never_ready)

    with pytest.raises(ControlError) as raised:
        await control.apply("redis", Action.RESTART)

    assert raised.value.failure is ControlFailure.UNAVAILABLE
    assert control.list_servers() == [STOPPED]
    assert not accepts_connections(redis.port)
