"""A gateway under test, in this process over ASGI or in a child process, and the connections that servers report."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
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
from gateway.settings.api_keys import parse_api_key
from tests.support.waiting import TIMEOUT, wait_until

ZURICH = 2657896
OPERATOR = {
    "Authorization": "Bearer the-key-of-an-operator"
}  # the header of an operator, who sees the details of /readyz

ANYIO_RUNNER = "TestRunner._call_in_runner_task"  # anyio runs each step of a test or fixture in a new task of this name


@dataclass
class RunningGateway:
    """A gateway in this process whose lifespan is active.

    Attributes:
        client: sends requests to `app`, as an operator.
        stack: the lifecycle stack of the lifespan.
        services: the value that the lifespan yielded.
        app: the ASGI app, whose requests have the state of the lifespan.
    """

    client: httpx.AsyncClient
    stack: LifecycleStack
    services: Services
    app: ASGIApp


@asynccontextmanager
async def running_gateway(settings: Settings) -> AsyncIterator[RunningGateway]:
    """Start the lifespan of an app over ASGI, as a server does, and shut it down at the end of the block."""
    app = create_app(settings.model_copy(update={"operator_keys": (parse_api_key("operator:the-key-of-an-operator"),)}))
    lifespan = LifespanManager(app)
    await lifespan.startup()
    try:
        stateful_app = StatefulApp(app, lifespan.state)
        transport = httpx.ASGITransport(stateful_app)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=OPERATOR) as client:
            yield RunningGateway(client, app.state.stack, lifespan.state["services"], stateful_app)
    finally:
        await lifespan.shutdown()


class Process:
    """A Python program in a child process."""

    def __init__(
        self,
        folder: Path,
        environment: dict[str, str],
        *arguments: str,
        stack_folder: Path,
        descriptors: Sequence[int] = (),
    ) -> None:
        """Start the process.

        Args:
            folder: its home directory, which gets the file with its output.
            environment: its environment variables.
            arguments: its arguments for Python.
            stack_folder: the folder of a devstack. The process belongs to that stack, whose reaper ends it if the test
                process is killed.
            descriptors: those that it inherits.
        """
        self._output = folder / "output"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own code
                [sys.executable, *arguments],
                env={"PATH": os.environ["PATH"], "HOME": str(folder), **environment, MARKER: str(stack_folder)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=descriptors,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        """The output so far, of stdout and stderr."""
        return self._output.read_text()

    @property
    def events(self) -> list[str]:
        """The events that it has logged so far, with the name of the entry if there is one, such as `exited redis`."""
        lines = [json.loads(line) for line in self.output.splitlines() if line.startswith("{")]
        return [" ".join(filter(None, (line["event"], line.get("entry")))) for line in lines]

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def wait_for_output(self, text: str, *, timeout: float = TIMEOUT) -> None:
        """Wait until its output contains the text. Fail if the process ends first."""

        def is_printed() -> bool:
            assert self._process.poll() is None or text in self.output, f"the process ended without {text!r}"
            return text in self.output

        try:
            await wait_until(is_printed, f"{text!r} is printed", timeout=timeout)
        except AssertionError as error:
            error.add_note(self.output)
            raise

    async def url(self) -> str:
        """Wait until it serves, and return its URL."""
        await self.wait_for_output('"event": "serving"')
        return self.output.split('"url": "')[1].split('"')[0]

    async def exit_status(self, *, timeout: float = TIMEOUT) -> int:
        """Wait until it has ended, and return its exit status."""
        await wait_until(lambda: self._process.poll() is not None, "the process has ended", timeout=timeout)
        return self._process.returncode

    def kill(self) -> None:
        """Kill it, and wait until it has ended."""
        self._process.kill()
        self._process.wait()


def event_sequence(journal: Journal) -> list[str]:
    """Return the events of the journal without times and errors."""
    return [f"{event.type} {event.name}" if event.name else str(event.type) for event in journal]


def assert_complete_problem(response: httpx.Response, status: int) -> None:
    """Assert that a response is a problem with a status and its id, and that its JSON body is as long as `Content-Length`."""
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Content-Length"] == str(len(response.content))
    assert response.json()["status"] == status
    assert response.json()["request_id"] == response.headers["X-Request-ID"]
    assert ("Retry-After" in response.headers) == (status == HTTPStatus.SERVICE_UNAVAILABLE)


async def open_connections(servers: Devstack, instance: str, *, broker: bool = True) -> list[str]:
    """Return the connections of an instance that the servers report: the server and the name of each.

    Without `broker`, RabbitMQ is not queried, which is faster.
    """
    return [
        f"{server} {name}"
        for server, it in servers.by_name.items()
        if broker or server != "rabbitmq"
        for name in await it.clients()
        if name.startswith(instance)
    ]


async def flush_redis(servers: Devstack) -> None:
    """Delete the cached weather and the views."""
    async with Redis.from_url(servers.redis.url) as client:
        await client.flushdb()


async def assert_no_server_leaks(servers: Devstack, instance: str) -> None:
    """Wait until no server has a connection of the instance."""

    async def is_empty() -> bool:
        return not await open_connections(servers, instance)

    await wait_until(is_empty, f"the servers have no connection of {instance}")


async def assert_no_process_leaks(before: ResourceSnapshot) -> None:
    """Wait until this process has nothing open that was not open before."""
    leaks: list[str] = []

    async def is_empty() -> bool:
        leaks[:] = [line for line in ResourceSnapshot.take().leaked_since(before) if ANYIO_RUNNER not in line]
        return not leaks

    try:
        await wait_until(is_empty, "this process has nothing open that was not open before")
    except AssertionError:
        raise AssertionError(f"this process leaks {leaks}") from None
