"""The limits of the HTTP server: on the head of a request, the time for it, and the number of connections."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator

import pytest
import structlog

from gateway.serving.http_limits import MAX_DRAINING
from tests.serving.echo_app import EchoApp, is_problem
from tests.serving.running_server import REQUEST, Client, RunningServer, running_server
from tests.support.waiting import wait_until

MAX_HEAD_BYTES = 2048
HEAD_TIMEOUT = 0.3
MAX_CONNECTIONS = 4

HANGING_REQUEST = b"GET /hang HTTP/1.1\r\nHost: gateway\r\n\r\n"
HALF_HEAD = b"GET / HTTP/1.1\r\nHost: gate"
POST = b"POST / HTTP/1.1\r\nHost: gateway\r\n"


@pytest.fixture
def app() -> EchoApp:
    return EchoApp()


@pytest.fixture
async def server(app: EchoApp) -> AsyncIterator[RunningServer]:
    """A server without a deadline for heads."""
    async with running_server(app, max_head_bytes=MAX_HEAD_BYTES, max_connections=MAX_CONNECTIONS) as server:
        yield server


@pytest.fixture
async def server_with_deadline(app: EchoApp) -> AsyncIterator[RunningServer]:
    async with running_server(app, head_timeout=HEAD_TIMEOUT) as server:
        yield server


def head_of(size: int) -> bytes:
    """Return a head whose URL and headers have this size."""
    start, end = b"GET / HTTP/1.1\r\nHost: gateway\r\nX: ", b"\r\n\r\n"
    counted = len(start) + len(end) - len(b"GET  HTTP/1.1\r\n") - len(b"\r\n")
    return start + b"x" * (size - counted) + end


class TestSizeOfTheHead:
    async def test_head_of_the_maximum_size(self, server: RunningServer) -> None:
        """A head of exactly the maximum size is accepted."""
        client = await server.connect()
        client.write(head_of(MAX_HEAD_BYTES))

        assert (await client.read(b"bytes")).startswith(b"HTTP/1.1 200 ")

    @pytest.mark.parametrize("size", [MAX_HEAD_BYTES + 1, 300_000])
    async def test_complete_head_over_the_maximum(self, server: RunningServer, size: int) -> None:
        """A complete head of one byte more, or of many more, gets a 431 with the limit in it."""
        client = await server.connect()
        response = await client.write(head_of(size)).read_to_end()

        assert is_problem(response, 431)
        assert str(MAX_HEAD_BYTES).encode() in response

    @pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\nX", b"\r\n"])
    async def test_endless_head(self, server: RunningServer, start: bytes) -> None:
        """A head that never ends gets a 431 as soon as it is too large, wherever it is endless."""
        client = await server.connect()
        filler = b"\r\n" if start == b"\r\n" else b"x"

        assert is_problem(await client.write(start + MAX_HEAD_BYTES * filler).read_to_end(), 431)

    async def test_many_headers(self, server: RunningServer) -> None:
        """Many small headers count as well."""
        client = await server.connect()
        head = (
            b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: 1\r\n" % number for number in range(MAX_HEAD_BYTES // 8)) + b"\r\n"
        )

        assert is_problem(await client.write(head).read_to_end(), 431)

    async def test_client_that_sends_on(self, server: RunningServer) -> None:
        """A client that continues to send gets its response, and not a reset."""
        client = await server.connect()
        client.write(head_of(8_000_000)[:-4])

        assert is_problem(await client.read_to_end(), 431)

    async def test_body_does_not_count(self, server: RunningServer) -> None:
        """A body is not part of the head: neither in one piece with it, nor before the head of the next request."""
        client = await server.connect()
        body = b"x" * 10 * MAX_HEAD_BYTES
        client.write(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body + head_of(MAX_HEAD_BYTES))

        assert (await client.read(b" bytes")).endswith(b"%d bytes" % len(body))
        assert (await client.read(b" bytes")).endswith(b"0 bytes")

    async def test_later_request(self, server: RunningServer) -> None:
        """The limit holds for each request of a connection, and not for their sum."""
        client = await server.connect()
        for _ in range(5):
            await client.write(head_of(MAX_HEAD_BYTES)).read(b" bytes")

        assert is_problem(await client.write(head_of(MAX_HEAD_BYTES + 1)).read_to_end(), 431)

    @pytest.mark.parametrize("size", [MAX_HEAD_BYTES, MAX_HEAD_BYTES + 1])
    async def test_head_that_begins_with_a_body(self, server: RunningServer, size: int) -> None:
        """A head is measured in full if its first part arrives together with the end of the request before it."""
        client = await server.connect()
        head = head_of(size)
        await client.write(POST + b"Content-Length: 3\r\n\r\n123" + head[:1000]).read(b"3 bytes")
        response = await client.write(head[1000:]).read(b"\r\n")

        assert response.startswith(b"HTTP/1.1 200 " if size == MAX_HEAD_BYTES else b"HTTP/1.1 431 ")

    @pytest.mark.parametrize(
        "second", [head_of(MAX_HEAD_BYTES + 1), b"not HTTP\r\n\r\n", b"GET http://gateway HTTP/1.1\r\n\r\n"]
    )
    async def test_pipelined_request(self, server: RunningServer, app: EchoApp, second: bytes) -> None:
        """A rejected request does not affect the response to the one before it; then the connection is closed."""
        client = await server.connect()
        client.write(HANGING_REQUEST + second)
        await wait_until(lambda: app.in_flight == 1, "the first request is in flight")
        app.release.set()
        response = await client.read_to_end()

        assert (response[:12], response[-7:], response.count(b"HTTP/1.1")) == (b"HTTP/1.1 200", b"0 bytes", 1)


class TestMalformedRequests:
    @pytest.mark.parametrize(
        "request_line", [b"\x16\x03\x01\x02\x00\x01", b"GET", b"GET / HTTP/x", b"GET http://gateway HTTP/1.1"]
    )
    async def test_malformed_head(self, server: RunningServer, request_line: bytes) -> None:
        """A request that is not valid HTTP gets a 400 problem, as other errors do."""
        client = await server.connect()

        assert is_problem(await client.write(request_line + b"\r\nHost: gateway\r\n\r\n").read_to_end(), 400)

    async def test_malformed_body(self, server: RunningServer, app: EchoApp) -> None:
        """A body that becomes invalid while the app reads it gets a 400, and the request ends."""
        client = await server.connect()
        client.write(POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        await wait_until(lambda: app.in_flight == 1, "the app reads the body")

        assert is_problem(await client.write(b"not a number\r\n").read_to_end(), 400)
        await wait_until(lambda: not server.server.requests, "the request has ended")


async def pass_deadline(server: RunningServer) -> None:
    """Return when the deadline of a connection that is opened now has passed."""
    await (await server.connect()).read_to_end()


class TestDeadlineOfTheHead:
    @pytest.mark.parametrize("pieces", [1, 1000])
    async def test_slow_head(self, server_with_deadline: RunningServer, pieces: int) -> None:
        """A head that is not complete at the deadline gets a 408, even if its bytes keep arriving."""
        client = await server_with_deadline.connect()
        client.write(HALF_HEAD)

        async def send_slowly() -> None:
            for _ in range(pieces):
                client.write(b"x")
                await asyncio.sleep(HEAD_TIMEOUT / 20)

        sending = asyncio.create_task(send_slowly())
        response = await client.read_to_end()
        sending.cancel()

        assert is_problem(response, 408)

    async def test_silent_connection(self, server_with_deadline: RunningServer) -> None:
        """A connection that sends nothing is closed without a response."""
        client = await server_with_deadline.connect()

        assert await client.read_to_end() == b""

    async def test_slow_later_request(self, server_with_deadline: RunningServer) -> None:
        """The deadline holds for a later request of a connection, too."""
        client = await server_with_deadline.connect()
        await client.write(REQUEST).read(b"0 bytes")

        assert is_problem(await client.write(HALF_HEAD).read_to_end(), 408)

    async def test_response_after_the_deadline(self, server_with_deadline: RunningServer) -> None:
        """A body that is complete after the deadline of the head is accepted, and so is a request after an idle time."""
        client = await server_with_deadline.connect()
        client.write(POST + b"Content-Length: 2\r\n\r\nx")
        await pass_deadline(server_with_deadline)
        first = await client.write(b"y").read(b"2 bytes")
        await pass_deadline(server_with_deadline)
        second = await client.write(REQUEST).read(b"0 bytes")

        assert (first[:12], second[:12]) == (b"HTTP/1.1 200", b"HTTP/1.1 200")

    async def test_half_head_behind_a_request(self, server_with_deadline: RunningServer, app: EchoApp) -> None:
        """Half a head that arrives before the response to an earlier request gets its 408 after that response."""
        client = await server_with_deadline.connect()
        client.write(HANGING_REQUEST + HALF_HEAD)
        await wait_until(lambda: app.in_flight == 1, "the first request is in flight")
        await pass_deadline(server_with_deadline)
        app.release.set()

        assert (await client.read(b"0 bytes")).startswith(b"HTTP/1.1 200 ")
        assert is_problem(await client.read_to_end(), 408)

    async def test_empty_line_is_no_request(self, server_with_deadline: RunningServer) -> None:
        """An empty line after a request starts no deadline, and the next request is served."""
        client = await server_with_deadline.connect()
        await client.write(REQUEST).read(b"0 bytes")
        client.write(b"\r\n")
        await pass_deadline(server_with_deadline)

        assert (await client.write(REQUEST).read(b"0 bytes")).startswith(b"HTTP/1.1 200 ")

    async def test_body_after_the_response(self, server_with_deadline: RunningServer) -> None:
        """The rest of a body whose response is complete has the same deadline; then the connection is closed without another one."""
        client = await server_with_deadline.connect()
        await client.write(b"POST /early HTTP/1.1\r\nHost: gateway\r\nContent-Length: 9\r\n\r\nx").read(b"0 bytes")
        client.write(b"y")

        assert await client.read_to_end() == b""


async def test_keep_alive_timeout(app: EchoApp) -> None:
    """An idle connection is closed after its timeout, shorter or longer than uvicorn's five seconds. An empty line changes nothing."""
    async with running_server(app, keep_alive_timeout=0.2) as server:
        client = await server.connect()
        await client.write(REQUEST).read(b" bytes")

        assert await client.write(b"\r\n").read_to_end() == b""
        assert server.server.config.timeout_keep_alive == 0.2


async def connect_many(server: RunningServer, number: int, sent: bytes) -> list[Client]:
    clients = []
    for _ in range(number):
        clients.append((await server.connect()).write(sent))
        await wait_until(
            lambda: len(server.server.server_state.connections) >= min(len(clients), MAX_CONNECTIONS), "accepted"
        )
    return clients


class TestNumberOfConnections:
    @pytest.mark.parametrize("sent", [b"", HALF_HEAD])
    async def test_oldest_incomplete_head_is_closed(self, server: RunningServer, sent: bytes) -> None:
        """A connection over the limit closes the oldest one without a complete head, and is served."""
        oldest, *others = await connect_many(server, MAX_CONNECTIONS, sent)
        client = (await server.connect()).write(REQUEST)

        assert (await client.read(b" bytes")).startswith(b"HTTP/1.1 200 ")
        assert oldest.reader.at_eof() or await oldest.reader.read() == b""
        assert not any(other.reader.at_eof() for other in others)

    async def test_idle_connection_is_closed(self, server: RunningServer) -> None:
        """If all heads are complete, a connection over the limit closes one that has no request in flight."""
        clients = await connect_many(server, MAX_CONNECTIONS, REQUEST)
        for each in clients:
            await each.read(b" bytes")
        client = (await server.connect()).write(REQUEST)

        assert (await client.read(b" bytes")).startswith(b"HTTP/1.1 200 ")
        await wait_until(lambda: sum(each.reader.at_eof() for each in clients) == 1, "one connection is closed")

    async def test_all_connections_have_requests(self, server: RunningServer, app: EchoApp) -> None:
        """If all connections have a request in flight, one over the limit gets a 503, and they are not closed."""
        clients = await connect_many(server, MAX_CONNECTIONS, HANGING_REQUEST)
        await wait_until(lambda: app.in_flight == MAX_CONNECTIONS, "all requests are in flight")
        response = await (await server.connect()).read_to_end()

        assert is_problem(response, 503)
        assert b"retry-after: 1\r\n" in response.lower()
        assert not any(each.reader.at_eof() for each in clients)

    async def test_rejected_connections_make_no_room(self, server: RunningServer, app: EchoApp) -> None:
        """Each connection over the limit gets a 503, although the rejected ones are still open; few of them stay open."""
        await connect_many(server, MAX_CONNECTIONS, HANGING_REQUEST)
        await wait_until(lambda: app.in_flight == MAX_CONNECTIONS, "all requests are in flight")
        clients = [(await server.connect()).write(REQUEST) for _ in range(MAX_DRAINING + 10)]

        assert all([is_problem(await each.read_to_end(), 503) for each in clients])
        assert app.in_flight == MAX_CONNECTIONS
        assert len(server.server.server_state.connections) <= MAX_CONNECTIONS + MAX_DRAINING

    async def test_room_while_a_connection_drains(self, server: RunningServer, app: EchoApp) -> None:
        """A connection that was rejected takes no place from a later one."""
        busy = await connect_many(server, MAX_CONNECTIONS, HANGING_REQUEST)
        await wait_until(lambda: app.in_flight == MAX_CONNECTIONS, "all requests are in flight")
        await (await server.connect()).read_to_end()
        busy[0].reset()
        await wait_until(lambda: len(server.server.server_state.connections) == MAX_CONNECTIONS, "one is closed")

        assert (await (await server.connect()).write(REQUEST).read(b"bytes")).startswith(b"HTTP/1.1 200 ")

    async def test_reset_connection_is_freed(self, server: RunningServer) -> None:
        """Nothing keeps an idle connection that the client has reset."""
        client = await server.connect()
        await client.write(REQUEST).read(b"0 bytes")
        connections = server.server.server_state.connections
        protocol = weakref.ref(next(iter(connections)))
        client.reset()
        await wait_until(lambda: not connections, "the connection is lost")

        await wait_until(lambda: gc.collect() >= 0 and protocol() is None, "the protocol is freed", timeout=5)

    async def test_warning_is_logged_once(self, server: RunningServer) -> None:
        """The limit is logged once, and not for each connection."""
        with structlog.testing.capture_logs() as logs:
            await connect_many(server, 3 * MAX_CONNECTIONS, b"")
            await (await server.connect()).write(REQUEST).read(b" bytes")

        assert [line["max_connections"] for line in logs] == [MAX_CONNECTIONS]
