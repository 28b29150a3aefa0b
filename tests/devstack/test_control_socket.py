"""The Unix socket of `gateway dev`: requests and errors cross it, and its end is noticed."""

import asyncio
import os
from pathlib import Path

import pytest

from gateway.devstack.control import Action, ControlError, ControlFailure, ServerControl
from gateway.devstack.control_socket import ControlClient, serve_control
from gateway.devstack.redis import RedisServer
from gateway.devstack.server import ServerStatus
from tests.support.waiting import wait_until


async def test_requests_and_errors(redis: RedisServer, tmp_path: Path) -> None:
    """The client returns and raises the same as the control in the other process."""
    control, client = ServerControl({"redis": redis}), ControlClient(tmp_path / "control")
    async with serve_control(control, tmp_path / "control"):
        assert await client.list_servers() == control.list_servers()
        assert (await client.apply("redis", Action.KILL)).status is ServerStatus.STOPPED
        with pytest.raises(ControlError) as raised:
            await client.apply("redis", Action.KILL)

    assert raised.value.failure is ControlFailure.CONFLICT
    assert raised.value.detail.startswith("Redis is stopped, so kill is not possible.")


async def test_socket_is_private(tmp_path: Path) -> None:
    """Only the user can connect, and the path may be longer than that of a socket."""
    folder = tmp_path / ("long" * 50)
    folder.mkdir()
    umask = os.umask(0)
    try:
        async with serve_control(ServerControl({}), folder / "control"):
            mode = (folder / "control").stat().st_mode & 0o777
            servers = await ControlClient(folder / "control").list_servers()
    finally:
        os.umask(umask)

    assert mode == 0o600
    assert servers == []


async def test_without_the_other_process(tmp_path: Path) -> None:
    """Without the process that owns the servers, the client reports it at once."""
    with pytest.raises(ControlError) as raised:
        await ControlClient(tmp_path / "control").list_servers()

    assert raised.value.failure is ControlFailure.UNAVAILABLE
    assert raised.value.detail == "`gateway dev` has ended or does not respond. Start it again."


async def test_end_during_an_action(redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the block ends, an action in progress is cancelled, and its client gets the error."""
    started = asyncio.Event()

    async def is_never_ready() -> bool:
        started.set()
        return False

    monkeypatch.setattr(redis, "probe", is_never_ready)
    async with serve_control(ServerControl({"redis": redis}), tmp_path / "control"):
        restart = asyncio.create_task(ControlClient(tmp_path / "control").apply("redis", Action.RESTART))
        await started.wait()
    running_at_the_end = redis.running

    with pytest.raises(ControlError) as raised:
        await restart
    assert raised.value.failure is ControlFailure.UNAVAILABLE
    assert not running_at_the_end


async def test_client_that_disconnects(redis: RedisServer, tmp_path: Path) -> None:
    """The action of a client that does not wait for the reply is still done, and the next client gets its reply."""
    control, client = ServerControl({"redis": redis}), ControlClient(tmp_path / "control")
    async with serve_control(control, tmp_path / "control"):
        for request in (b"", b"no JSON\n", b'{"name": "redis", "action": "kill"}\n'):
            _, writer = await asyncio.open_unix_connection(tmp_path / "control")
            writer.write(request)
            writer.close()
        await wait_until(lambda: not redis.running, "the server is killed")

        assert [it.status for it in await client.list_servers()] == [ServerStatus.STOPPED]
