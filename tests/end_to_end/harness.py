"""Running a gateway for a test: in this process over ASGI, or as a process of its own; and what the servers hold of it."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from redis.asyncio import Redis
from starlette.types import ASGIApp

from faultlab import ResourceSnapshot
from gateway.app import create_app
from gateway.devstack.reaper import MARKER
from gateway.devstack.stack import Devstack
from gateway.lifecycle import Journal, LifecycleStack
from gateway.lifespan import Services
from gateway.serving.lifespan_manager import LifespanManager, StatefulApp
from gateway.settings import Settings
from tests.support.entries import ENTRIES
from tests.support.waiting import TIMEOUT, wait_until

ORDER = ENTRIES
ZURICH = 2657896

RUNNER = "TestRunner._call_in_runner_task"
"""The task of anyio that runs a step of a test or of a fixture: another one each time."""


@dataclass
class Running:
    """An app whose lifespan is entered, and a client for it."""

    client: httpx.AsyncClient
    stack: LifecycleStack
    gateway: Services
    app: ASGIApp


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Running]:
    """Enter the lifespan of an app over ASGI, as a server does, and leave it again."""
    app = create_app(settings)
    lifespan = LifespanManager(app)
    await lifespan.enter()
    try:
        requests = StatefulApp(app, lifespan.state)
        transport = httpx.ASGITransport(requests)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            yield Running(client, app.state.stack, lifespan.state["services"], requests)
    finally:
        await lifespan.leave()


class Process:
    """A Python program as a process of its own."""

    def __init__(self, folder: Path, environment: dict[str, str], *arguments: str, ends_with: Path) -> None:
        """Start it.

        Args:
            folder: for what it prints.
            environment: its variables.
            arguments: for Python.
            ends_with: the folder of a stack; the process belongs to it, and so does not outlive us if we are killed.
        """
        self._output = folder / "output"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - ours
                [sys.executable, *arguments],
                env={"PATH": os.environ["PATH"], "HOME": str(folder), **environment, MARKER: str(ends_with)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def said(self, text: str, *, limit: float = TIMEOUT) -> None:
        """Wait until it has printed the text."""

        def has_said() -> bool:
            assert self._process.poll() is None or text in self.output, f"it ended without {text!r}"
            return text in self.output

        try:
            await wait_until(has_said, f"{text!r} is printed", timeout=limit)
        except AssertionError as error:
            error.add_note(self.output)
            raise

    async def url(self) -> str:
        """Wait until it serves; return where."""
        await self.said('"event": "serving"')
        return self.output.split('"url": "')[1].split('"')[0]

    async def status(self, *, limit: float = TIMEOUT) -> int:
        """Wait until it ends; return its exit status."""
        await wait_until(lambda: self._process.poll() is not None, "the process has ended", timeout=limit)
        return self._process.returncode

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def told(journal: Journal) -> list[str]:
    """The journal without times and errors."""
    return [f"{event.type} {event.name}" if event.name else str(event.type) for event in journal]


def assert_problem_in_full(response: httpx.Response, status: int) -> None:
    """It is a problem, and all of it has come: as much as its head says, and as JSON."""
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Content-Length"] == str(len(response.content))
    assert response.json()["status"] == status
    assert response.headers["X-Request-ID"]


async def held(servers: Devstack, instance: str, *, broker: bool = True) -> list[str]:
    """What the servers hold of an instance: the names of its connections."""
    async with servers.postgresql.superuser() as connection:
        rows = await connection.fetch("SELECT application_name AS name FROM pg_stat_activity")
    names = [("postgresql", row["name"]) for row in rows]
    names += [("redis", name) for name in await servers.redis.clients()]
    if broker:
        names += [("rabbitmq", name) for name in await servers.rabbitmq.clients()]
    return [f"{server} {name}" for server, name in names if name.startswith(instance)]


async def forget(servers: Devstack) -> None:
    """Let Redis keep nothing: neither the weather nor any views."""
    async with Redis.from_url(servers.redis.url) as client:
        await client.flushdb()


async def assert_nothing_is_held(servers: Devstack, instance: str) -> None:
    async def nothing() -> bool:
        return not await held(servers, instance)

    await wait_until(nothing, f"the servers hold nothing of {instance}")


async def assert_nothing_is_left(before: ResourceSnapshot) -> None:
    """This process holds what it held before, or does so in a moment."""
    left: list[str] = []

    async def nothing() -> bool:
        left[:] = [line for line in ResourceSnapshot.take().leaked_since(before) if RUNNER not in line]
        return not left

    try:
        await wait_until(nothing, "this process holds what it held before")
    except AssertionError:
        raise AssertionError(f"this process holds more than before: {left}") from None
