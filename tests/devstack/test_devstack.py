"""Whole stacks: concurrent starts, stops in reverse order, and no leftovers, even if the owner is killed."""

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway.devstack import reaper, stack
from gateway.devstack.folder import remove_stale_dirs
from gateway.devstack.rabbitmq import RabbitMQServer
from gateway.devstack.redis import RedisServer
from gateway.devstack.server import DevstackError
from gateway.devstack.stack import Devstack, devstack
from gateway.settings import Settings
from tests.devstack.process_probes import accepts_connections, alive, command, program, shared_memory_of
from tests.support.waiting import wait_until


@dataclass
class StackOwner:
    """A process that owns a stack, in its own process group."""

    process: Process
    reports: list[str] = field(default_factory=list)
    folder: Path = Path()
    ports: list[int] = field(default_factory=list)
    pids: set[int] = field(default_factory=set)

    async def read_output(self) -> None:
        """Read its output until its servers are ready, or until it exits."""
        assert self.process.stdout
        async for text in self.process.stdout:
            line = json.loads(text)
            if "folder" in line:
                self.folder, self.ports = Path(line["folder"]), line["ports"]
                self.pids = set(reaper.find_processes(self.folder))
                return
            self.reports.append(line["report"])

    async def wait_for_start_of_rabbitmq(self) -> None:
        """Read its output until RabbitMQ is starting. The folder is taken from the reaper: it is not printed yet."""
        assert self.process.stdout
        async for text in self.process.stdout:
            if json.loads(text)["report"].startswith("RabbitMQ: starting"):
                break
        self.folder = Path(command(self.reaper())[-1])

    def order_of(self, *beginnings: str) -> list[str]:
        """Return the beginnings of reports in the order in which they were reported."""
        return [beginning for line in self.reports for beginning in beginnings if line.startswith(beginning)]

    def servers_reporting(self, event: str) -> list[str]:
        """Return the names of the servers that reported an event, in order."""
        return reporters(self.reports, event)

    def children(self) -> list[int]:
        """Return the ids of its servers and its reaper, without the children of the servers."""
        pids = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in pids]

    def reaper(self) -> int:
        """Return the id of the process that waits for the exit of the owner."""
        [pid] = [pid for pid in self.children() if "reaper.py" in " ".join(command(pid))]
        return pid

    def kill(self) -> None:
        """SIGKILL its whole process group."""
        os.killpg(self.process.pid, signal.SIGKILL)

    def nothing_is_left(self) -> bool:
        """Return whether folder, processes, ports and shared memory of its stack are gone."""
        return (
            not self.folder.exists()
            and not any(map(alive, self.pids))
            and not any(map(accepts_connections, self.ports))
            and not shared_memory_of(self.pids)
        )

    async def wait_until_nothing_is_left(self) -> None:
        await wait_until(self.nothing_is_left, "nothing of the killed stack is left")


def reporters(reports: list[str], event: str) -> list[str]:
    return [server for server, _, text in (line.partition(": ") for line in reports) if text.startswith(event)]


@asynccontextmanager
async def stack_owner(*arguments: str) -> AsyncIterator[StackOwner]:
    """Start a process that owns a stack; kill it at the end if it still runs."""
    root, script = Path(__file__).parents[2], Path(__file__).with_name("stack_owner_program.py")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        *arguments,
        stdout=PIPE,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    try:
        yield StackOwner(process)
    finally:
        if process.returncode is None:
            process.kill()
        assert process.stdout
        await process.stdout.read()
        await process.wait()


async def test_two_stacks_are_independent() -> None:
    """Two stacks share no folder and no port, and each starts its servers concurrently. When one owner is killed, its
    stack disappears and the other one keeps running. When the other owner gets Ctrl-C, its servers are stopped in the
    reverse of the order in which they became ready.
    """
    async with stack_owner() as killed, stack_owner() as interrupted:
        await asyncio.gather(killed.read_output(), interrupted.read_output())
        assert killed.folder != interrupted.folder
        assert not set(killed.ports) & set(interrupted.ports)
        for owner in (killed, interrupted):
            assert {"postgres", "redis-server", "beam.smp", "epmd", "inet_gethost"} < set(map(program, owner.pids))
            assert all(map(accepts_connections, owner.ports))
            concurrent = ["RabbitMQ: starting", "PostgreSQL: ready"]
            assert owner.order_of(*concurrent) == concurrent

        servers = interrupted.children()
        killed.kill()
        await killed.wait_until_nothing_is_left()
        assert interrupted.children() == servers
        assert all(map(alive, servers))
        assert all(map(accepts_connections, interrupted.ports))

        assert interrupted.process.pid not in map(os.getpgid, interrupted.pids)
        os.killpg(interrupted.process.pid, signal.SIGINT)  # like Ctrl-C in a terminal, it does not reach the servers
        ready = interrupted.servers_reporting("ready")
        await interrupted.read_output()
        await interrupted.process.wait()
        assert interrupted.nothing_is_left()
        assert sorted(ready) == sorted(server.name for server in Devstack(Path()).by_name.values())
        assert interrupted.servers_reporting("stopped") == ready[::-1]


class TestKilledOwner:
    async def test_killed_during_startup(self) -> None:
        """A stack whose owner is killed while RabbitMQ starts leaves nothing."""
        async with stack_owner() as owner:
            await owner.wait_for_start_of_rabbitmq()
            await wait_until(
                lambda: "beam.smp" in map(program, reaper.find_processes(owner.folder)), "RabbitMQ is starting"
            )
            owner.pids = set(reaper.find_processes(owner.folder))

            owner.kill()

            await owner.wait_until_nothing_is_left()

    async def test_suspended_server(self) -> None:
        """A suspended server is removed, too."""
        async with stack_owner("redis") as owner:
            await owner.read_output()
            for pid in owner.pids:
                os.kill(pid, signal.SIGSTOP)

            owner.kill()

            await owner.wait_until_nothing_is_left()

    async def test_killed_without_its_process_group(self) -> None:
        """If only the owner itself is killed, its stack leaves nothing."""
        async with stack_owner("redis") as owner:
            await owner.read_output()

            owner.process.kill()

            await owner.wait_until_nothing_is_left()

    async def test_reaper_is_killed_too(self) -> None:
        """`remove_stale_dirs` leaves a stack alone as long as its owner runs, even without a reaper, and removes it after
        the owner was killed.
        """
        async with stack_owner("postgresql") as owner:
            await owner.read_output()
            os.kill(owner.reaper(), signal.SIGKILL)
            remove_stale_dirs()
            assert all(map(alive, owner.pids))

            owner.kill()
            await owner.process.wait()
            assert owner.folder.exists()
            remove_stale_dirs()
            assert owner.nothing_is_left()

    async def test_folder_removed_before_the_reaper(self) -> None:
        """The reaper kills the servers even if another process has removed their folder first."""
        async with stack_owner("postgresql") as owner:
            await owner.read_output()
            reaper = owner.reaper()
            os.kill(reaper, signal.SIGSTOP)
            owner.kill()
            await owner.process.wait()
            shutil.rmtree(owner.folder)
            assert all(map(alive, owner.pids))

            os.kill(reaper, signal.SIGCONT)

            await owner.wait_until_nothing_is_left()


class TestFailedStart:
    async def test_ready_servers_stop_in_reverse(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """If the last server fails to start, those that are ready are stopped in reverse order."""
        reports: list[str] = []
        others_are_ready = asyncio.Event()

        class LastAndFailing(RedisServer):
            async def initialize(self) -> None:
                await others_are_ready.wait()
                raise DevstackError("no room")

        def report(line: str) -> None:
            reports.append(line)
            if len(reporters(reports, "ready")) == 2:
                others_are_ready.set()

        monkeypatch.setattr(stack, "RedisServer", LastAndFailing)
        with pytest.raises(DevstackError, match=r"^no room$"):
            async with devstack(report=report):
                pytest.fail("it started")

        ready = reporters(reports, "ready")
        assert len(ready) >= 2
        assert reporters(reports, "stopped") == ready[::-1]

    async def test_error_names_server_and_shows_log(
        self, monkeypatch: pytest.MonkeyPatch, created_folders: list[Path]
    ) -> None:
        """The error names the server and shows the end of its log. No folder and no process is left."""

        class Failing(RabbitMQServer):
            def command(self) -> list[str]:
                return ["sh", "-c", "echo boom; exit 3"]

        monkeypatch.setattr(stack, "RabbitMQServer", Failing)
        with pytest.raises(DevstackError) as failure:
            async with devstack():
                pytest.fail("it started")

        assert str(failure.value) == "RabbitMQ exited with status 3 while starting\n  | boom"
        [folder] = created_folders
        assert not folder.exists()
        assert reaper.find_processes(folder) == []

    async def test_all_missing_programs_are_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The error of a start names all servers that are not installed, each with its package."""
        monkeypatch.setattr("shutil.which", lambda name, path: None)  # noqa: ARG005
        with pytest.raises(DevstackError) as failure:
            async with devstack():
                pytest.fail("it started")

        assert set(str(failure.value).splitlines()) >= {
            "initdb is not installed; on Debian: apt-get install postgresql",
            "redis-server is not installed; on Debian: apt-get install redis-server",
            "rabbitmq-server is not installed; on Debian: apt-get install rabbitmq-server",
        }

    async def test_cancelled_start_leaves_nothing(self, created_folders: list[Path]) -> None:
        """A start that is cancelled while several servers run leaves no folder and no process."""
        starting = asyncio.Event()
        never = asyncio.Event()

        def report(line: str) -> None:
            if line.startswith("RabbitMQ: starting"):
                starting.set()

        async def run() -> None:
            async with devstack(report=report):
                await never.wait()

        task = asyncio.create_task(run())
        await starting.wait()
        [folder] = created_folders
        await wait_until(lambda: len(reaper.find_processes(folder)) > 3, "several servers have processes")
        pids = reaper.find_processes(folder)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert not folder.exists()
        assert not any(map(alive, pids))


class TestEnvironment:
    def test_settings_read_the_urls(self, devstack: Devstack, monkeypatch: pytest.MonkeyPatch) -> None:
        """With the environment of a stack, the settings have the URLs of its servers."""
        for name, value in devstack.environment().items():
            monkeypatch.setenv(name, value)

        settings = Settings()

        assert settings.http.weather_url.get_secret_value() == devstack.weather.url
        assert settings.database.url.get_secret_value() == devstack.postgresql.url
        assert settings.redis.url.get_secret_value() == devstack.redis.url
        assert settings.rabbitmq.url.get_secret_value() == devstack.rabbitmq.url

    async def test_process_belongs_to_the_stack(self, devstack: Devstack) -> None:
        """A process with the environment of a stack belongs to it, so it is killed with the stack."""
        process = await asyncio.create_subprocess_exec("sleep", "60", env=os.environ | devstack.environment())
        try:
            # The environment of a new program is empty for a moment after `exec`.
            await wait_until(lambda: process.pid in reaper.find_processes(devstack.folder), "it belongs to the stack")
        finally:
            process.kill()
            await process.wait()


@pytest.fixture
def created_folders(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The temporary folders that are created during the test."""
    created: list[Path] = []
    mkdtemp = tempfile.mkdtemp

    def mkdtemp_and_record(prefix: str) -> str:
        created.append(Path(mkdtemp(prefix=prefix)))
        return str(created[-1])

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp_and_record)
    return created
