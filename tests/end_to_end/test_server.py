"""`gateway serve` as a process: its exit statuses, and a stop that works at any time and leaks nothing."""

import asyncio
import socket
import time
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM, Signals
from typing import Any

import httpx
import pytest

from gateway.devstack import ports
from gateway.devstack.stack import Devstack
from gateway.process.exit_status import ExitStatus
from tests.end_to_end.conftest import StartProcess
from tests.end_to_end.harness import (
    ZURICH,
    assert_complete_problem,
    assert_no_server_leaks,
)
from tests.support.entries import CONNECTED, ENTRIES, server_for
from tests.support.waiting import TIMEOUT, wait_until

BRIEF = f"/v1/places/{ZURICH}/brief"


async def get_brief(url: str) -> dict[str, Any]:
    async with httpx.AsyncClient() as client:
        brief: dict[str, Any] = (await client.get(url + BRIEF)).json()
        return brief


def unread_bytes(port: int) -> int:
    """Return how many bytes wait in the receive buffers of the connections to a loopback port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(int(row[4].split(":")[1], 16) for row in rows if int(row[1].split(":")[1], 16) == port)


def open_file(pid: int, descriptor: int) -> str:
    """Return the file that a descriptor of a process refers to."""
    return str(Path(f"/proc/{pid}/fd/{descriptor}").readlink())


class TestStopSignal:
    @pytest.mark.parametrize("number", [SIGTERM, SIGINT, SIGHUP])
    async def test_stops_cleanly(self, start: StartProcess, servers: Devstack, instance: str, number: Signals) -> None:
        """A signal while serving: all entries exit in reverse order, the status is 0, and no server has a connection."""
        process = start("serve", "--port", "0")
        brief = await get_brief(await process.url())
        process.send_signal(number)

        assert brief["complete"] is True
        assert await process.exit_status() == ExitStatus.OK
        exited = [event.split()[1] for event in process.events if event.startswith("exited ")]
        assert exited == list(reversed(ENTRIES))
        await assert_no_server_leaks(servers, instance)

    @pytest.mark.parametrize("resource", CONNECTED)
    async def test_cancels_the_startup(
        self, start: StartProcess, servers: Devstack, instance: str, resource: str
    ) -> None:
        """A signal while a resource hangs in the startup cancels it long before its timeout. Everything is released."""
        long_timeouts = {f"GATEWAY_{resource.upper()}__START_TIMEOUT": "600", "GATEWAY_STARTUP_TIMEOUT": "600"}
        with server_for(resource, servers).suspended():
            process = start("serve", "--port", "0", **long_timeouts)
            await process.wait_for_output(f'"entry": "{resource}", "event": "entering"')
            process.send_signal(SIGTERM)

            assert await process.exit_status() == ExitStatus.START_FAILED

        assert "enter cancelled " + resource in process.events
        await assert_no_server_leaks(servers, instance)

    async def test_before_the_first_entry(self, start: StartProcess) -> None:
        """A signal right after the start ends the process, with or without an installed signal handler."""
        process = start("serve", "--port", "0")
        process.send_signal(SIGTERM)

        assert await process.exit_status() in {-SIGTERM, ExitStatus.OK, ExitStatus.START_FAILED}

    async def test_second_signal_forces_the_shutdown(
        self, start: StartProcess, servers: Devstack, instance: str
    ) -> None:
        """A second signal aborts a close that hangs, long before its timeout."""
        process = start("serve", "--port", "0", GATEWAY_DATABASE__STOP_TIMEOUT="600", GATEWAY_SHUTDOWN_TIMEOUT="600")
        await get_brief(await process.url())
        with servers.postgresql.suspended():
            process.send_signal(SIGTERM)
            await process.wait_for_output('"entry": "database", "event": "exiting"')
            process.send_signal(SIGTERM)

            assert await process.exit_status() == ExitStatus.FORCED

        await assert_no_server_leaks(servers, instance)

    async def test_after_the_release_changes_nothing(self, start: StartProcess) -> None:
        """A second signal after the release of all entries changes the exit status at most."""
        process = start("serve", "--port", "0")
        await process.url()
        process.send_signal(SIGTERM)
        await process.wait_for_output('"event": "stopped"')
        process.send_signal(SIGTERM)

        assert await process.exit_status() in {ExitStatus.OK, ExitStatus.FORCED}


# Starts the command in its arguments with the closed standard streams that the first argument lists.
CLOSE_AND_EXECUTE = """
import os, sys
for descriptor in sys.argv[1]:
    os.close(int(descriptor))
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


@pytest.mark.parametrize("closed", ["2", "012"])
async def test_closed_standard_streams(run: StartProcess, closed: str) -> None:
    """With closed standard streams the gateway serves and stops, and no connection gets one of their descriptors."""
    with ports.reserve() as reserved:
        port = str(reserved.getsockname()[1])
        process = run("-c", CLOSE_AND_EXECUTE, closed, "-m", "gateway", "serve", "--port", port)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:

            async def is_serving() -> bool:
                assert process.running
                try:
                    return (await client.get("/readyz")).is_success
                except httpx.ConnectError:
                    return False

            await wait_until(is_serving, "the gateway serves")
        files = {open_file(process.pid, int(descriptor)) for descriptor in closed}
        process.send_signal(SIGTERM)

        assert files == {"/dev/null"}
        assert await process.exit_status() == ExitStatus.OK


async def test_idle_connections_do_not_delay_the_stop(start: StartProcess) -> None:
    """A hundred idle keep-alive connections do not delay the shutdown."""
    process = start("serve", "--port", "0", GATEWAY_KEEP_ALIVE_SECONDS="600", GATEWAY_GRACEFUL_SECONDS="20")
    url = await process.url()
    async with httpx.AsyncClient(base_url=url, limits=httpx.Limits(max_keepalive_connections=100)) as client:
        await asyncio.gather(*(client.get("/livez") for _ in range(100)))
        process.send_signal(SIGTERM)
        started_at = time.monotonic()

        assert await process.exit_status() == ExitStatus.OK
        assert time.monotonic() - started_at < 10


class TestCloseThatHangs:
    async def test_is_aborted_at_its_stop_timeout(self, start: StartProcess, servers: Devstack, instance: str) -> None:
        """A close that hangs is aborted, the rest exits, and the last line of the output reports it."""
        process = start("serve", "--port", "0", GATEWAY_DATABASE__STOP_TIMEOUT="0.5")
        await get_brief(await process.url())
        with servers.postgresql.suspended():
            process.send_signal(SIGTERM)
            status = await process.exit_status()

        assert status == ExitStatus.UNCLEAN
        assert "exited http" in process.events
        assert "database was not released within 0.5 s" in process.output.splitlines()[-1]
        await assert_no_server_leaks(servers, instance)

    async def test_is_aborted_at_the_shutdown_timeout(
        self, start: StartProcess, servers: Devstack, instance: str
    ) -> None:
        """A close is aborted at the shutdown timeout if its own timeout is longer. The rest exits."""
        process = start("serve", "--port", "0", GATEWAY_SHUTDOWN_TIMEOUT="4", GATEWAY_DATABASE__STOP_TIMEOUT="60")
        await get_brief(await process.url())
        with servers.postgresql.suspended():
            process.send_signal(SIGTERM)
            status = await process.exit_status()

        assert status == ExitStatus.UNCLEAN
        assert [event for event in process.events if event.endswith(("database", "http", "stopped"))][-4:] == [
            "aborted database",
            "exiting http",
            "exited http",
            "stopped",
        ]
        assert "database was not released" in process.output.splitlines()[-1]
        await assert_no_server_leaks(servers, instance)


class TestRequestsInFlight:
    async def test_served_during_the_drain(self, start: StartProcess) -> None:
        """During the drain the process is not ready, but still serves complete briefs."""
        process = start("serve", "--port", "0", GATEWAY_DRAIN_SECONDS="3")
        url = await process.url()
        async with httpx.AsyncClient() as client:
            process.send_signal(SIGTERM)
            await process.wait_for_output("shutdown requested")
            ready = await client.get(url + "/readyz")
            brief = await client.get(url + BRIEF)

        assert (ready.status_code, brief.status_code) == (503, 200)
        assert brief.json()["complete"] is True
        assert await process.exit_status() == ExitStatus.OK

    async def test_cancelled_after_the_graceful_seconds(
        self, start: StartProcess, servers: Devstack, instance: str
    ) -> None:
        """A request that is not done after the graceful seconds is cancelled. Its client gets a 503 problem, which is counted."""
        process = start("serve", "--port", "0", GATEWAY_GRACEFUL_SECONDS="0.3")
        url = await process.url()
        port = int(url.rpartition(":")[2])
        sent = asyncio.Event()

        async def trace(event: str, _: object) -> None:
            if event == "http11.send_request_body.complete":
                sent.set()

        async with httpx.AsyncClient(timeout=TIMEOUT) as client:
            await client.get(f"{url}/v1/places")
            with servers.postgresql.suspended():
                place = client.get(f"{url}/v1/places/{ZURICH}", extensions={"trace": trace})
                request = asyncio.create_task(place)
                await asyncio.wait_for(sent.wait(), TIMEOUT)
                await wait_until(lambda: unread_bytes(port) == 0, "the gateway has read the request")
                process.send_signal(SIGTERM)
                response = await request

        assert_complete_problem(response, 503)
        assert await process.exit_status() == ExitStatus.OK
        assert "responses failed" in process.events
        await assert_no_server_leaks(servers, instance)


class TestCrash:
    async def test_stops_the_process(self, run: StartProcess) -> None:
        """An entry that crashes stops the process with status 1."""
        process = run("-m", "tests.end_to_end.crashing_app")
        url = await process.url()
        async with httpx.AsyncClient() as client:
            await client.get(url + "/crash")

        assert await process.exit_status() == ExitStatus.CRASHED
        assert "crashed worker" in process.events

    async def test_during_the_drain(self, run: StartProcess) -> None:
        """An entry that crashes during the drain ends the drain, and the status is 1, too."""
        process = run("-m", "tests.end_to_end.crashing_app", GATEWAY_DRAIN_SECONDS="5")
        url = await process.url()
        process.send_signal(SIGTERM)
        await process.wait_for_output("shutdown requested")
        async with httpx.AsyncClient() as client:
            await client.get(url + "/crash")

        assert await process.exit_status() == ExitStatus.CRASHED


async def test_port_in_use_fails_before_the_startup(start: StartProcess) -> None:
    """If another process has the port, nothing is entered, and the message names the option to change."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        process = start("serve", "--port", str(other.getsockname()[1]))

        assert await process.exit_status() == ExitStatus.START_FAILED

    assert "address already in use" in process.output
    assert "--port" in process.output
    assert process.events == []


async def test_plain_uvicorn_serves_the_app(run: StartProcess, servers: Devstack, instance: str) -> None:
    """The app also runs under plain uvicorn, which stops it without a leak."""
    with ports.reserve() as reserved:
        port = reserved.getsockname()[1]
        process = run("-m", "uvicorn", "gateway.app:create_app", "--factory", "--port", str(port))
        await process.wait_for_output("Uvicorn running")
        brief = await get_brief(f"http://127.0.0.1:{port}")
        process.send_signal(SIGTERM)
        await process.exit_status()

    assert brief["complete"] is True
    await assert_no_server_leaks(servers, instance)


async def test_root_path(start: StartProcess) -> None:
    """Behind a proxy that removes a prefix, the Location of an observation and the API description have the prefix."""
    process = start("serve", "--port", "0", "--root-path", "/weather")
    url = await process.url()
    path = f"/v1/places/{ZURICH}/observations"
    async with httpx.AsyncClient(base_url=url) as client:
        created = await client.post(path, json={"temperature_c": 12.5, "condition": "rain"})
        location = created.headers["Location"]
        found = await client.get(location.removeprefix("/weather"))
        description = (await client.get("/openapi.json")).json()

    assert location == f"/weather{path}/{created.json()['id']}"
    assert found.json() == created.json()
    assert description["servers"] == [{"url": "/weather"}]
