"""The real process: exit statuses, and a stop that works at any time and leaves nothing behind."""

import asyncio
import socket
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals

import httpx
import pytest

from gateway.devstack import ports
from gateway.devstack.stack import Devstack
from gateway.process.listener import BindError, bind_socket, enable_address_reuse
from tests.end_to_end.conftest import Start
from tests.end_to_end.harness import (
    ENTRY_ORDER,
    ZURICH,
    assert_complete_problem,
    assert_no_server_leaks,
    open_connections,
)
from tests.support.waiting import TIMEOUT, wait_until

BRIEF = f"/v1/places/{ZURICH}/brief"


def unread_bytes(port: int) -> int:
    """How many bytes the connections to a loopback port have received that its process has not read yet."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(int(row[4].split(":")[1], 16) for row in rows if int(row[1].split(":")[1], 16) == port)


class TestASignal:
    @pytest.mark.parametrize("number", [SIGTERM, SIGINT])
    async def test_while_serving_stops_it_cleanly(
        self, start: Start, servers: Devstack, instance: str, number: Signals
    ) -> None:
        process = start("serve", "--port", "0")
        url = await process.url()
        async with httpx.AsyncClient() as client:
            assert (await client.get(url + BRIEF)).json()["complete"] is True
        process.send_signal(number)

        assert await process.exit_status() == 0
        exited = [event.split()[1] for event in process.events if event.startswith("exited ")]
        assert exited == list(reversed(ENTRY_ORDER))
        await assert_no_server_leaks(servers, instance)

    @pytest.mark.parametrize("resource", ["database", "redis", "rabbitmq"])
    async def test_during_a_startup_that_hangs_gives_everything_back(
        self, start: Start, servers: Devstack, instance: str, resource: str
    ) -> None:
        server = {"database": servers.postgresql, "redis": servers.redis, "rabbitmq": servers.rabbitmq}[resource]
        long = {f"GATEWAY_{resource.upper()}__START_TIMEOUT": "600", "GATEWAY_STARTUP_TIMEOUT": "600"}
        with server.suspended():
            process = start("serve", "--port", "0", **long)
            await process.wait_for_output(f'"entry": "{resource}", "event": "entering"')
            process.send_signal(SIGTERM)
            assert await process.exit_status() == 3  # long before the start would time out

        assert "enter cancelled " + resource in process.events
        await assert_no_server_leaks(servers, instance)

    async def test_before_the_first_entry_ends_it(self, start: Start) -> None:
        process = start("serve", "--port", "0")
        process.send_signal(SIGTERM)

        assert await process.exit_status() in (-SIGTERM, 0, 3)

    async def test_a_second_one_forces_the_stop(self, start: Start, servers: Devstack, instance: str) -> None:
        process = start("serve", "--port", "0", GATEWAY_DATABASE__STOP_TIMEOUT="600", GATEWAY_SHUTDOWN_TIMEOUT="600")
        url = await process.url()
        async with httpx.AsyncClient() as client:
            await client.get(url + BRIEF)
        with servers.postgresql.suspended():
            process.send_signal(SIGTERM)
            await process.wait_for_output('"entry": "database", "event": "exiting"')
            process.send_signal(SIGTERM)
            assert await process.exit_status() == 130  # long before the stop would time out

        await assert_no_server_leaks(servers, instance)

    async def test_once_the_stop_has_taken_its_time_aborts_what_is_left_and_says_so(
        self, start: Start, servers: Devstack, instance: str
    ) -> None:
        process = start("serve", "--port", "0", GATEWAY_SHUTDOWN_TIMEOUT="4", GATEWAY_DATABASE__STOP_TIMEOUT="60")
        url = await process.url()
        async with httpx.AsyncClient() as client:
            await client.get(url + BRIEF)
        with servers.postgresql.suspended():
            process.send_signal(SIGTERM)
            assert await process.exit_status() == 4

        assert [event for event in process.events if event.endswith(("database", "http", "stopped"))][-4:] == [
            "aborted database",
            "exiting http",
            "exited http",
            "stopped",
        ]
        assert "database was not released" in process.output.splitlines()[-1]
        await assert_no_server_leaks(servers, instance)

    async def test_after_everything_was_released_changes_nothing(self, start: Start) -> None:
        process = start("serve", "--port", "0")
        await process.url()
        process.send_signal(SIGTERM)
        await process.wait_for_output('"event": "stopped"')
        process.send_signal(SIGTERM)

        assert await process.exit_status() in (0, 130)

    async def test_with_a_close_that_hangs_ends_in_time_and_says_so(
        self, start: Start, servers: Devstack, instance: str
    ) -> None:
        process = start("serve", "--port", "0", GATEWAY_DATABASE__STOP_TIMEOUT="0.5")
        url = await process.url()
        async with httpx.AsyncClient() as client:
            await client.get(url + BRIEF)
        with servers.postgresql.suspended():
            process.send_signal(SIGTERM)
            status = await process.exit_status()

        assert status == 4
        assert "exited http" in process.events
        assert "database was not released within 0.5 s" in process.output.splitlines()[-1]
        await assert_no_server_leaks(servers, instance)


class TestRequestsInFlight:
    async def test_are_finished_while_it_drains_and_readiness_is_off(self, start: Start) -> None:
        process = start("serve", "--port", "0", GATEWAY_DRAIN_SECONDS="3")
        url = await process.url()
        async with httpx.AsyncClient() as client:
            process.send_signal(SIGTERM)
            await process.wait_for_output("shutdown requested")
            ready = await client.get(url + "/readyz")
            brief = await client.get(url + BRIEF)

        assert (ready.status_code, brief.status_code) == (503, 200)
        assert brief.json()["complete"] is True
        assert await process.exit_status() == 0

    async def test_are_cancelled_after_the_graceful_seconds_and_answered(
        self, start: Start, servers: Devstack, instance: str
    ) -> None:
        process = start("serve", "--port", "0", GATEWAY_GRACEFUL_SECONDS="0.3")
        url = await process.url()
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
                port = int(url.rpartition(":")[2])
                await wait_until(lambda: unread_bytes(port) == 0, "the gateway has read the request")
                process.send_signal(SIGTERM)
                response = await request

        assert_complete_problem(response, 503)
        assert await process.exit_status() == 0
        await assert_no_server_leaks(servers, instance)


class TestSupervision:
    async def test_an_entry_that_dies_stops_the_process(self, run: Start) -> None:
        process = run("-m", "tests.end_to_end.crashing_app")
        url = await process.url()
        async with httpx.AsyncClient() as client:
            await client.get(url + "/crash")

        assert await process.exit_status() == 1
        assert "crashed worker" in process.events

    async def test_one_that_dies_while_it_drains_makes_it_no_clean_stop(self, run: Start) -> None:
        process = run("-m", "tests.end_to_end.crashing_app", GATEWAY_DRAIN_SECONDS="5")
        url = await process.url()
        process.send_signal(SIGTERM)
        await process.wait_for_output("shutdown requested")
        async with httpx.AsyncClient() as client:
            await client.get(url + "/crash")

        assert await process.exit_status() == 1


class TestThePort:
    async def test_taken_fails_at_once(self, start: Start) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            process = start("serve", "--port", str(taken.getsockname()[1]))
            assert await process.exit_status() == 3

        assert "address already in use" in process.output
        assert "--port" in process.output
        assert process.events == []

    def test_is_taken_before_it_is_listened_on(self) -> None:
        with bind_socket("127.0.0.1", 0) as listener:
            port = listener.getsockname()[1]
            with pytest.raises(BindError):
                bind_socket("127.0.0.1", port)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))

    def test_can_be_taken_again_right_after_connections_to_it_were_closed(self) -> None:
        with bind_socket("127.0.0.1", 0) as listener:
            enable_address_reuse(listener)
            listener.listen()
            port = listener.getsockname()[1]
            with socket.create_connection(("127.0.0.1", port)) as client:
                accepted, _ = listener.accept()
                accepted.close()  # first, so that it is this side that waits in TIME_WAIT
                assert client.recv(1) == b""
        bind_socket("127.0.0.1", port).close()

    @pytest.mark.parametrize("host", ["no such host", "256.1.1.1", "", "192.0.2.1"])
    def test_of_no_address_here_says_so(self, host: str) -> None:
        with pytest.raises(BindError, match="--host"):
            bind_socket(host or "\0", 0)


BAD_SETTINGS = {
    "GATEWAY_DATABASE__URL": "mysql://root:hunter2@nowhere/x",
    "GATEWAY_REDIS__URL": "http://:hunter2@nowhere",
    "GATEWAY_RABBITMQ__URL": "amqp://user:hunter2@nowhere:notaport/",
    "GATEWAY_HTTP__WEATHER_URL": "ftp://hunter2@nowhere",
    "GATEWAY_STARTUP_TIMEOUT": "hunter2",
    "GATEWAY_MODEL__START_TIMEOUT": "1e9",
    "GATEWAY_DATABASE__STOP_TIMEOUT": "-1",
    "GATEWAY_REDIS__START_TIMEOUT": "nan",
    "GATEWAY_SHUTDOWN_TIMEOUT": "1",
    "GATEWAY_API_KEYS": "hunter2",
    "GATEWAY_INSTANCE": "two words",
}


class TestBadSettings:
    @pytest.mark.parametrize("name", BAD_SETTINGS)
    async def test_are_named_in_one_line_before_anything_is_entered(self, start: Start, name: str) -> None:
        process = start("serve", "--port", "0", **{name: BAD_SETTINGS[name]})

        assert await process.exit_status() == 3
        assert name in process.output
        assert "hunter2" not in process.output
        assert len(process.output.strip().splitlines()) == 1

    @pytest.mark.parametrize("rest", ["/?apikey=hunter2", "?apikey=hunter2", "/hunter2", "#hunter2"])
    async def test_the_upstream_is_an_origin(self, start: Start, rest: str) -> None:
        process = start("serve", "--port", "0", GATEWAY_HTTP__WEATHER_URL=f"https://api.example.org{rest}")

        assert await process.exit_status() == 3
        assert "GATEWAY_HTTP__WEATHER_URL" in process.output
        assert "hunter2" not in process.output

    async def test_an_option_that_no_driver_knows_is_named(self, start: Start, environment: dict[str, str]) -> None:
        process = start("serve", "--port", "0", GATEWAY_DATABASE__URL=environment["GATEWAY_DATABASE__URL"] + "?foo=1")

        assert await process.exit_status() == 3
        assert "GATEWAY_DATABASE__URL" in process.output.splitlines()[-1]
        assert "foo" in process.output.splitlines()[-1]

    async def test_a_refused_password_is_one_line_without_it(self, start: Start, environment: dict[str, str]) -> None:
        url = environment["GATEWAY_DATABASE__URL"]
        password = url.split(":")[2].split("@")[0]
        process = start("serve", "--port", "0", GATEWAY_DATABASE__URL=url.replace(password, "hunter2"))

        assert await process.exit_status() == 3
        last = process.output.strip().splitlines()[-1]
        assert last.startswith("gateway: database: GATEWAY_DATABASE__URL: ")
        assert "user or password" in last
        assert "Traceback" not in process.output
        assert "hunter2" not in process.output

    async def test_debug_shows_the_traceback_and_still_no_password(self, start: Start) -> None:
        process = start("serve", "--port", "0", "--debug", GATEWAY_MODEL__PATH="/nowhere")
        assert await process.exit_status() == 3
        assert "Traceback" in process.output
        assert "hunter2" not in process.output

    async def test_wrong_usage_is_status_2(self, start: Start) -> None:
        assert await start("serve", "--port", "many").exit_status() == 2


class TestCheck:
    async def test_shows_the_timeline_and_leaves_nothing(self, start: Start, servers: Devstack, instance: str) -> None:
        process = start("check")

        assert await process.exit_status() == 0
        first_words = [line.split()[0] for line in process.output.splitlines() if line.strip()]
        assert first_words == ["entry", *ENTRY_ORDER]
        assert await open_connections(servers, instance) == []

    async def test_names_what_to_fix(self, start: Start) -> None:
        process = start("check", GATEWAY_REDIS__URL="redis://127.0.0.1:1/0", GATEWAY_REDIS__START_TIMEOUT="1")

        assert await process.exit_status() == 3
        last = process.output.strip().splitlines()[-1]
        assert last.startswith("gateway: redis: not entered within 1 s")
        assert "127.0.0.1:1" in last
        assert "GATEWAY_REDIS__URL" in last

    async def test_an_upstream_that_is_away_fails_it(self, start: Start) -> None:
        process = start("check", GATEWAY_HTTP__WEATHER_URL="http://127.0.0.1:1")

        assert await process.exit_status() == 1
        assert "gateway: http: " in process.output


class TestMigrateAndSeed:
    async def test_prepare_an_empty_database(self, start: Start, empty_database: str) -> None:
        migrated = start("migrate", GATEWAY_DATABASE__URL=empty_database)
        assert await migrated.exit_status() == 0
        seeded = start("seed", GATEWAY_DATABASE__URL=empty_database)
        assert await seeded.exit_status() == 0
        again = start("seed", GATEWAY_DATABASE__URL=empty_database)
        assert await again.exit_status() == 0

        assert "0 unchanged" in seeded.output
        assert "0 places inserted" in again.output

    async def test_seeding_too_early_says_what_to_do(self, start: Start, empty_database: str) -> None:
        process = start("seed", GATEWAY_DATABASE__URL=empty_database)

        assert await process.exit_status() == 3
        assert "gateway migrate" in process.output

    @pytest.mark.parametrize("command", ["migrate", "seed"])
    async def test_nobody_there_is_one_line(self, start: Start, command: str) -> None:
        process = start(command, GATEWAY_DATABASE__URL="postgresql+asyncpg://u:hunter2@127.0.0.1:1/gateway")

        assert await process.exit_status() == 3
        assert "127.0.0.1:1" in process.output
        assert "hunter2" not in process.output
        assert len(process.output.strip().splitlines()) == 1


async def test_plain_uvicorn_serves_it_too(run: Start, servers: Devstack, instance: str) -> None:
    with ports.reserve() as reserved:
        port = reserved.getsockname()[1]
        process = run("-m", "uvicorn", "gateway.app:create_app", "--factory", "--port", str(port))
        await process.wait_for_output("Uvicorn running")
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"http://127.0.0.1:{port}{BRIEF}")).json()["complete"] is True
        process.send_signal(SIGTERM)

        await process.exit_status()
    await assert_no_server_leaks(servers, instance)
