"""Requests whose end is unusual: trailers, upgrades, targets with a host, and clients that neither send nor read on."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from tests.serving.echo_app import EchoApp, is_problem
from tests.serving.running_server import REQUEST, RunningServer, running_server
from tests.support.waiting import wait_until

MAX_HEAD_BYTES = 2048
TIMEOUT = 0.3

CHUNKED = b"POST /headers HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n"
HANGING_REQUEST = b"GET /hang HTTP/1.1\r\nHost: gateway\r\n\r\n"
UPGRADE = b"Host: gateway\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
SMUGGLED = b"POST /smuggled HTTP/1.1\r\nHost: local\r\n\r\n"  # 40 bytes


@pytest.fixture
def app() -> EchoApp:
    return EchoApp()


@pytest.fixture
async def server(app: EchoApp) -> AsyncIterator[RunningServer]:
    async with running_server(app, max_head_bytes=MAX_HEAD_BYTES) as server:
        yield server


class TestTrailers:
    async def test_trailers_are_no_headers(self, server: RunningServer) -> None:
        """Trailers are read, and dropped."""
        client = await server.connect()
        response = await client.write(CHUNKED + b"1\r\nx\r\n0\r\nX-Trailer: 1\r\n\r\n").read(b"!")

        assert response.endswith(b"\r\n\r\nhost,transfer-encoding!")

    @pytest.mark.parametrize("trailer", [b"X: 1\r\n", b"x"])
    async def test_endless_trailers(self, server: RunningServer, app: EchoApp, trailer: bytes) -> None:
        """Trailers that never end get a 431 as soon as they are too large: many of them, or a single one."""
        client = await server.connect()
        client.write(CHUNKED + b"1\r\nx\r\n0\r\nX: 1\r\nX: ")
        await wait_until(lambda: app.in_flight == 1, "the app reads the body")

        assert is_problem(await client.write((MAX_HEAD_BYTES + 1) * trailer).read_to_end(), 431)
        await wait_until(lambda: not server.server.requests, "the request has ended")


class TestUpgrade:
    @pytest.mark.parametrize("pieces", [1, 2])
    @pytest.mark.parametrize("framing", ["Content-Length: 40", "Transfer-Encoding: chunked"])
    async def test_body_is_no_request(self, server: RunningServer, app: EchoApp, pieces: int, framing: str) -> None:
        """The body of a request with `Upgrade` is its body, and the next request is served."""
        client = await server.connect()
        head = b"POST /first HTTP/1.1\r\n" + UPGRADE + framing.encode() + b"\r\n\r\n"
        body = SMUGGLED if "Length" in framing else b"28\r\n" + SMUGGLED + b"\r\n0\r\n\r\n"
        client.write(head + body if pieces == 1 else head)
        await wait_until(lambda: app.in_flight + len(app.paths) > 0, "the head has arrived")
        client.write(REQUEST if pieces == 1 else body + REQUEST)

        assert (await client.read(b" bytes")).endswith(b"\r\n\r\n40 bytes")
        assert (await client.read(b" bytes")).endswith(b"\r\n\r\n0 bytes")
        assert app.paths == ["/first", "/"]

    async def test_many_upgrades(self, server: RunningServer, app: EchoApp) -> None:
        """Requests with `Upgrade` that arrive together are all served."""
        client = await server.connect()
        client.write(200 * (b"GET / HTTP/1.1\r\n" + UPGRADE + b"\r\n"))
        for _ in range(200):
            await client.read(b" bytes")

        assert app.paths == 200 * ["/"]

    async def test_connect(self, server: RunningServer) -> None:
        """CONNECT gets a 400."""
        client = await server.connect()

        assert is_problem(await client.write(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n").read_to_end(), 400)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


async def test_clients_cause_no_log_lines(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    """Neither malformed requests nor upgrades are logged: any client could fill the log."""
    await (await server.connect()).write(b"GET / HTTP/1.1\r\n" + UPGRADE + b"\r\n").read(b" bytes")
    await (await server.connect()).write(b"malformed\r\n\r\n").read_to_end()

    assert warnings_of(caplog) == []


async def test_malformed_body_behind_a_request(
    server: RunningServer, app: EchoApp, caplog: pytest.LogCaptureFixture
) -> None:
    """A malformed body does not affect the requests before it: they get their responses, and then the connection is closed."""
    client = await server.connect()
    client.write(HANGING_REQUEST + REQUEST + CHUNKED + b"not a number\r\n")
    await wait_until(lambda: app.in_flight == 1, "the first request is in flight")
    app.release.set()
    response = await client.read_to_end()

    assert response.count(b"HTTP/1.1 200 ") == response.count(b"HTTP/1.1 ") == 2
    assert app.paths == ["/hang", "/"]
    assert warnings_of(caplog) == []


async def test_host_of_the_target(server: RunningServer) -> None:
    """The host of a target replaces the header Host."""
    client = await server.connect()
    response = await client.write(b"GET http://evil.example:1/host HTTP/1.1\r\nHost: localhost\r\n\r\n").read(b"!")

    assert response.endswith(b"\r\n\r\nevil.example:1!")


class TestSilentClients:
    async def test_half_body(self, app: EchoApp) -> None:
        """A body that stops gets a 408, and the request ends."""
        async with running_server(app, body_timeout=TIMEOUT) as server:
            client = await server.connect()
            response = await client.write(
                b"POST / HTTP/1.1\r\nHost: gateway\r\nContent-Length: 9\r\n\r\nx"
            ).read_to_end()

            assert is_problem(response, 408)
            await wait_until(lambda: not server.server.requests, "the request has ended")

    async def test_slow_body(self, app: EchoApp) -> None:
        """A body may take longer than the timeout in all."""
        async with running_server(app, body_timeout=TIMEOUT) as server:
            client = await server.connect()
            client.write(b"POST / HTTP/1.1\r\nHost: gateway\r\nContent-Length: 10\r\n\r\n")
            for _ in range(10):
                await asyncio.sleep(TIMEOUT / 5)
                client.write(b"x")

            assert (await client.read(b" bytes")).endswith(b"10 bytes")

    async def test_client_that_reads_nothing(self, app: EchoApp) -> None:
        """A client that does not read its response is disconnected."""
        async with running_server(app, write_timeout=TIMEOUT) as server:
            client = await server.connect()
            client.write(b"GET /large HTTP/1.1\r\nHost: gateway\r\n\r\n")
            await client.read(b"\r\n\r\n")

            await wait_until(lambda: not server.server.server_state.connections, "the connection is closed", timeout=5)
