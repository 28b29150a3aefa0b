"""Whole stacks: up together, down in reverse, and nothing of them left, also when their owner is killed."""

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
from gateway.devstack.stack import devstack
from gateway.settings import Settings
from tests.devstack.process_probes import alive, command, program, shared_memory_of, takes_connections
from tests.support.waiting import wait_until


@dataclass
class Owner:
    """A process that owns a stack, in a process group of its own."""

    process: Process
    reports: list[str] = field(default_factory=list)
    folder: Path = Path()
    ports: list[int] = field(default_factory=list)
    pids: set[int] = field(default_factory=set)

    async def read(self) -> None:
        """Read what it prints, until its servers are up or it ends."""
        assert self.process.stdout
        async for line in self.process.stdout:
            said = json.loads(line)
            if "up" in said:
                self.folder, self.ports = Path(said["up"]), said["ports"]
                self.pids = set(reaper.find_processes(self.folder))
                return
            self.reports.append(said["report"])

    def began(self) -> list[str]:
        """In which order the slowest server was started and another one came up."""
        wanted = ("RabbitMQ: starting", "PostgreSQL: answers")
        return [beginning for report in self.reports for beginning in wanted if report.startswith(beginning)]

    def children(self) -> list[int]:
        """Its servers and its reaper. Servers have children of their own, which come and go."""
        pids = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in pids]

    def reaper(self) -> int:
        """The process that waits for the owner's end."""
        [reaper] = [pid for pid in self.children() if "reaper.py" in " ".join(command(pid))]
        return reaper

    async def folder_while_it_starts(self) -> Path:
        """Where its servers will live, as soon as RabbitMQ is started: before it is up it does not print it."""
        assert self.process.stdout
        async for line in self.process.stdout:
            if json.loads(line)["report"].startswith("RabbitMQ: starting"):
                break
        return Path(command(self.reaper())[-1])

    def kill(self) -> None:
        """SIGKILL its whole process group."""
        os.killpg(self.process.pid, signal.SIGKILL)

    def is_gone(self) -> bool:
        """Whether nothing of its stack is left."""
        return (
            not self.folder.exists()
            and not any(map(alive, self.pids))
            and not any(map(takes_connections, self.ports))
            and not shared_memory_of(self.pids)
        )


@asynccontextmanager
async def owner(*arguments: str) -> AsyncIterator[Owner]:
    """Start an owner, and read until it is up."""
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
        yield Owner(process)
    finally:
        if process.returncode is None:
            process.kill()
        assert process.stdout
        await process.stdout.read()
        await process.wait()


class TestTwoStacks:
    async def test_side_by_side_one_is_killed_and_the_other_is_interrupted(self) -> None:
        async with owner() as killed, owner() as interrupted:
            await asyncio.gather(killed.read(), interrupted.read())
            assert killed.folder != interrupted.folder
            assert not set(killed.ports) & set(interrupted.ports)
            for each in (killed, interrupted):
                assert {"postgres", "redis-server", "beam.smp", "epmd", "inet_gethost"} < set(map(program, each.pids))
                assert all(map(takes_connections, each.ports))
                assert each.began() == ["RabbitMQ: starting", "PostgreSQL: answers"]  # at the same time

            servers = interrupted.children()
            killed.kill()
            await wait_until(killed.is_gone, "nothing of the killed stack is left")
            assert interrupted.children() == servers
            assert all(map(alive, servers))
            assert all(map(takes_connections, interrupted.ports))

            assert interrupted.process.pid not in map(os.getpgid, interrupted.pids)
            os.killpg(interrupted.process.pid, signal.SIGINT)  # as a terminal does on Ctrl-C: it reaches no server
            began = [report.partition(":")[0] for report in interrupted.reports if "answers" in report]
            await interrupted.read()
            await interrupted.process.wait()
            assert interrupted.is_gone()
            ended = [report.partition(":")[0] for report in interrupted.reports if "stopped" in report]
            assert sorted(began) == ["PostgreSQL", "RabbitMQ", "Redis", "Weather"]
            assert ended == began[::-1]


class TestAnOwnerThatIsKilled:
    async def test_leaves_nothing_while_it_starts(self) -> None:
        async with owner() as killed:
            killed.folder = await killed.folder_while_it_starts()
            await wait_until(
                lambda: "beam.smp" in map(program, reaper.find_processes(killed.folder)), "RabbitMQ is starting"
            )
            killed.pids = set(reaper.find_processes(killed.folder))
            killed.kill()
            await wait_until(killed.is_gone, "nothing of the killed stack is left")

    async def test_leaves_nothing_of_a_suspended_server(self) -> None:
        async with owner("redis") as killed:
            await killed.read()
            for pid in killed.pids:
                os.kill(pid, signal.SIGSTOP)
            killed.kill()
            await wait_until(killed.is_gone, "nothing of the killed stack is left")

    async def test_is_swept_at_the_next_start_when_its_reaper_is_killed_too(self) -> None:
        async with owner("postgresql") as killed:
            await killed.read()
            os.kill(killed.reaper(), signal.SIGKILL)
            remove_stale_dirs()
            assert all(map(alive, killed.pids))  # its owner lives

            killed.kill()
            await killed.process.wait()
            assert killed.folder.exists()
            remove_stale_dirs()
            assert killed.is_gone()

    async def test_leaves_nothing_when_somebody_removes_its_folder_before_its_reaper_does(self) -> None:
        async with owner("postgresql") as killed:
            await killed.read()
            reaper = killed.reaper()
            os.kill(reaper, signal.SIGSTOP)
            killed.kill()
            await killed.process.wait()
            shutil.rmtree(killed.folder)
            assert all(map(alive, killed.pids))
            os.kill(reaper, signal.SIGCONT)
            await wait_until(killed.is_gone, "nothing of the killed stack is left")

    async def test_is_killed_alone_and_leaves_nothing(self) -> None:
        async with owner("redis") as killed:
            await killed.read()
            killed.process.kill()
            await wait_until(killed.is_gone, "nothing of the killed stack is left")


class TestAStart:
    async def test_that_fails_gives_back_what_was_up_in_reverse(self, monkeypatch: pytest.MonkeyPatch) -> None:
        reports: list[str] = []
        others_are_up = asyncio.Event()

        class Failing(RedisServer):
            """Comes up last, and then fails."""

            async def initialize(self) -> None:
                await others_are_up.wait()
                raise DevstackError("no room")

        def report(line: str) -> None:
            reports.append(line)
            if sum("answers" in line for line in reports) == 2:
                others_are_up.set()

        monkeypatch.setattr(stack, "Redis", Failing)
        with pytest.raises(DevstackError, match=r"^no room$"):
            async with devstack(report=report):
                pytest.fail("it started")

        answered = [line.partition(":")[0] for line in reports if "answers" in line]
        stopped = [line.partition(":")[0] for line in reports if "stopped" in line]
        assert sorted(answered) == ["PostgreSQL", "Weather"]
        assert stopped == answered[::-1]

    async def test_that_fails_says_which_server_and_shows_the_end_of_its_log(
        self, monkeypatch: pytest.MonkeyPatch, folders: list[Path]
    ) -> None:
        class Failing(RabbitMQServer):
            def command(self) -> list[str]:
                return ["sh", "-c", "echo boom; exit 3"]

        monkeypatch.setattr(stack, "RabbitMQ", Failing)
        with pytest.raises(DevstackError) as failure:
            async with devstack():
                pytest.fail("it started")

        assert str(failure.value) == "RabbitMQ ended with status 3 while starting\n  | boom"
        [folder] = folders
        assert not folder.exists()
        assert reaper.find_processes(folder) == []

    async def test_that_fails_twice_says_both(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shutil.which", lambda name, path: None)  # noqa: ARG005
        with pytest.raises(DevstackError) as failure:
            async with devstack():
                pytest.fail("it started")

        assert str(failure.value).splitlines() == [
            "initdb is not installed; on Debian: apt-get install postgresql",
            "redis-server is not installed; on Debian: apt-get install redis-server",
            "rabbitmq-server is not installed; on Debian: apt-get install rabbitmq-server",
        ]

    async def test_that_is_cancelled_leaves_nothing(self, folders: list[Path]) -> None:
        starting = asyncio.Event()
        waits_for_ever = asyncio.Event()

        def report(line: str) -> None:
            if line.startswith("RabbitMQ: starting"):
                starting.set()

        async def own() -> None:
            async with devstack(report=report):
                await waits_for_ever.wait()

        task = asyncio.create_task(own())
        await starting.wait()
        [folder] = folders
        await wait_until(lambda: len(reaper.find_processes(folder)) > 3, "several servers have processes")
        pids = reaper.find_processes(folder)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert not folder.exists()
        assert not any(map(alive, pids))


class TestTheEnvironment:
    def test_is_what_the_settings_take(self, devstack: stack.Devstack, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in devstack.environment().items():
            monkeypatch.setenv(name, value)
        settings = Settings()
        assert settings.http.weather_url.get_secret_value() == devstack.weather.url
        assert settings.database.url.get_secret_value() == devstack.postgresql.url
        assert settings.redis.url.get_secret_value() == devstack.redis.url
        assert settings.rabbitmq.url.get_secret_value() == devstack.rabbitmq.url

    async def test_makes_a_process_end_with_the_stack(self, devstack: stack.Devstack) -> None:
        process = await asyncio.create_subprocess_exec("sleep", "60", env=os.environ | devstack.environment())
        # For a moment after `exec` the environment of a new program is empty.
        await wait_until(lambda: process.pid in reaper.find_processes(devstack.folder), "it belongs to the stack")
        process.kill()
        await process.wait()


@pytest.fixture
def folders(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The data folders that are made while the test runs."""
    made: list[Path] = []
    make = tempfile.mkdtemp

    def make_and_note(prefix: str) -> str:
        made.append(Path(make(prefix=prefix)))
        return str(made[-1])

    monkeypatch.setattr(tempfile, "mkdtemp", make_and_note)
    return made
