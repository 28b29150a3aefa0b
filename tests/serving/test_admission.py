"""Admission control: the bound of the requests in progress, and the responses to those over it."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from starlette.types import Receive, Scope, Send

from gateway.serving import admission
from gateway.serving.admission import FULL_TIME, INTERVAL, MIN_REQUESTS, READMISSION_INTERVAL, Admission
from gateway.serving.http_limits import MIN_PAUSE
from gateway.serving.http_protocol import LimitedHttpProtocol
from tests.serving.echo_app import LARGE, EchoApp
from tests.serving.running_server import REQUEST, Client, RunningServer, running_server
from tests.support.waiting import TIMEOUT, wait_until

SLOW = 0.2
MAX_REQUESTS = 100
MAX_UNSENT_BYTES = 256 * 1024
ORIGIN = "https://page.example"

HANGING = b"GET /hang HTTP/1.1\r\nHost: gateway\r\n\r\n"


class Clock:
    """A clock that a test moves, and the share of the time in which the process wants to run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.runnable_share = 1.0
        monkeypatch.setattr(admission, "monotonic", lambda: self.now)
        monkeypatch.setattr(admission, "runnable_time", lambda: self.now * self.runnable_share)

    def run_interval(self, bound: Admission, *durations: float) -> None:
        """Record responses of these durations in one interval."""
        self.now += INTERVAL
        for duration in durations[:-1]:
            bound.record(duration)
        bound.record(durations[-1])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class TestBound:
    def test_fast_responses(self, clock: Clock) -> None:
        """The bound stays at its maximum while responses are fast."""
        bound = Admission(MAX_REQUESTS, SLOW)
        for _ in range(5):
            clock.run_interval(bound, 0.01)

        assert bound.bound == MAX_REQUESTS

    def test_slow_responses(self, clock: Clock) -> None:
        """The bound shrinks while most responses are slow, but not below its minimum."""
        bound = Admission(MAX_REQUESTS, SLOW)
        clock.run_interval(bound, 0.3)
        after_one = bound.bound
        for _ in range(100):
            clock.run_interval(bound, 0.3)

        assert MIN_REQUESTS < after_one < MAX_REQUESTS
        assert bound.bound == MIN_REQUESTS

    def test_slow_backend(self, clock: Clock) -> None:
        """The bound stays at its maximum while all responses are slow, but the process is idle."""
        clock.runnable_share = 0.2
        bound = Admission(MAX_REQUESTS, SLOW)
        for _ in range(100):
            clock.run_interval(bound, 0.3)

        assert bound.bound == MAX_REQUESTS

    def test_slow_minority(self, clock: Clock) -> None:
        """A few slow responses, of a slow backend, leave the bound as it is."""
        bound = Admission(MAX_REQUESTS, SLOW)
        clock.now += INTERVAL / 2
        bound.record(0.01)
        bound.record(0.3)
        clock.now += INTERVAL / 2
        bound.record(0.01)

        assert bound.bound == MAX_REQUESTS

    @pytest.mark.parametrize("seconds", [60, 30 * 24 * 3600])
    def test_quiet_time(self, clock: Clock, seconds: float) -> None:
        """The bound grows with the time, so that it is at its maximum after a quiet time."""
        bound = Admission(MAX_REQUESTS, SLOW)
        for _ in range(100):
            clock.run_interval(bound, 0.3)
        clock.now += seconds
        bound.record(0.01)

        assert bound.bound == MAX_REQUESTS


@pytest.fixture
def app() -> EchoApp:
    return EchoApp()


@pytest.fixture
async def full_server(app: EchoApp) -> AsyncIterator[RunningServer]:
    """A server that accepts one request at a time, and has it."""
    async with running_server(app, max_requests=1, exempt_paths=["/livez"], cors_origins=[ORIGIN]) as server:
        (await server.connect()).write(HANGING)
        await wait_until(lambda: app.in_flight == 1, "a request is in flight")
        yield server
        app.release.set()


async def read_response(client: Client) -> tuple[str, bytes]:
    """Return the head of the next response in lower case, and its body."""
    head = (await client.read(b"\r\n\r\n")).decode().lower()
    length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
    return head, await client.reader.readexactly(length)


class TestAcceptance:
    def test_refused_client(self, clock: Clock) -> None:
        """Clients that were refused are accepted, one after the other, once the bound was not reached for a while, the others at once."""
        bound = Admission(MAX_REQUESTS, SLOW)
        assert not bound.accepts(MAX_REQUESTS, was_refused=False)
        assert bound.accepts(MAX_REQUESTS - 2, was_refused=False)
        clock.now += FULL_TIME / 2
        assert not bound.accepts(MAX_REQUESTS - 2, was_refused=True)
        clock.now += FULL_TIME
        assert bound.accepts(MAX_REQUESTS - 2, was_refused=True)
        assert not bound.accepts(MAX_REQUESTS - 2, was_refused=True)
        assert bound.accepts(MAX_REQUESTS - 2, was_refused=False)
        clock.now += READMISSION_INTERVAL
        assert bound.accepts(MAX_REQUESTS - 2, was_refused=True)

    def test_last_place(self, clock: Clock) -> None:
        """The request that reaches the bound is accepted, and those of refused clients are not for a while after it."""
        bound = Admission(MAX_REQUESTS, SLOW)
        assert bound.accepts(MAX_REQUESTS - 1, was_refused=True)
        clock.now += FULL_TIME / 2
        assert not bound.accepts(MAX_REQUESTS - 2, was_refused=True)

    def test_end_of_a_burst(self) -> None:
        """A client that was refused is accepted at once when most of the bound is free."""
        bound = Admission(MAX_REQUESTS, SLOW)
        assert not bound.accepts(MAX_REQUESTS, was_refused=False)
        assert bound.accepts(MAX_REQUESTS // 5, was_refused=True)


class TestRefusal:
    async def test_refused_request(self, full_server: RunningServer, app: EchoApp) -> None:
        """A request over the bound gets a problem at once, with the id of the request, and never reaches the app."""
        client = await full_server.connect()
        client.write(b"GET / HTTP/1.1\r\nHost: gateway\r\nX-Request-ID: mine\r\n\r\n")
        head, body = await read_response(client)

        assert head.startswith("http/1.1 503 ")
        assert "\r\nretry-after: 1\r\n" in head
        assert "\r\nx-request-id: mine\r\n" in head
        assert "\r\nconnection: close" not in head
        assert b'"type":"/problems/overloaded"' in body
        assert b'"request_id":"mine"' in body
        assert app.paths == ["/hang"]

    async def test_next_request(self, full_server: RunningServer, app: EchoApp) -> None:
        """The connection stays open after a refusal, also of a request with a body, and the next request is accepted."""
        client = await full_server.connect()
        client.write(b"POST / HTTP/1.1\r\nHost: gateway\r\nContent-Length: 10\r\n\r\n01234")
        await read_response(client)
        app.release.set()
        await wait_until(lambda: not full_server.server.requests, "the request in flight ends")
        client.write(b"56789" + REQUEST)

        assert (await client.read(b" bytes")).startswith(b"HTTP/1.1 200 ")

    async def test_exempt_path(self, full_server: RunningServer) -> None:
        """A health check gets its response."""
        client = await full_server.connect()
        client.write(b"GET /livez HTTP/1.1\r\nHost: gateway\r\n\r\n")

        assert (await client.read(b"bytes")).startswith(b"HTTP/1.1 200 ")

    async def test_pipelined_request(self, app: EchoApp) -> None:
        """A request that was sent behind an accepted one is accepted, too."""
        async with running_server(app, max_requests=1) as server:
            client = await server.connect()
            client.write(HANGING + REQUEST)
            await wait_until(lambda: app.in_flight == 1, "the first request is in flight")
            app.release.set()
            responses = await client.read(b"bytes") + await client.read(b"bytes")

        assert responses.count(b"HTTP/1.1 200 ") == len(app.paths) == 2

    async def test_request_behind_a_cleanup(self, app: EchoApp) -> None:
        """A client that sends one request after the other is not refused, although the task of the one before still cleans up."""

        async def clean_up_slowly(scope: Scope, receive: Receive, send: Send) -> None:
            await app(scope, receive, send)
            await app.release.wait()

        async with running_server(clean_up_slowly, max_requests=1) as server:
            client = await server.connect()
            client.write(REQUEST)
            await client.read(b"bytes")
            client.write(REQUEST)
            second = await client.read(b"\r\n\r\n")
            other = await (await server.connect()).write(REQUEST).read(b"\r\n\r\n")
            app.release.set()

        assert second.startswith(b"HTTP/1.1 200 ")
        assert other.startswith(b"HTTP/1.1 503 ")

    async def test_many_pipelined_requests(self, full_server: RunningServer) -> None:
        """Refused requests that were sent together get a response each."""
        client = await full_server.connect()
        client.write(REQUEST * 20)
        heads = [(await read_response(client))[0] for _ in range(20)]

        assert all(head.startswith("http/1.1 503 ") for head in heads)

    @pytest.mark.parametrize(
        "request_head",
        [
            b"GET / HTTP/1.0\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: gateway\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        ],
    )
    async def test_connection_that_cannot_stay(self, full_server: RunningServer, request_head: bytes) -> None:
        """The connection is closed after the refusal if the client wants that, or if its next bytes may be a body or a head."""
        client = await full_server.connect()
        response = await client.write(request_head).read_to_end()

        assert response.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nconnection: close\r\n" in response

    @pytest.mark.parametrize("field", ["Connection: close", "Expect: 100-continue"])
    async def test_client_that_sends_its_body(self, full_server: RunningServer, field: str) -> None:
        """A client that sends its body after the refusal is not interrupted before it has read the refusal."""
        client = await full_server.connect()
        client.write(f"POST / HTTP/1.1\r\nHost: gateway\r\n{field}\r\nContent-Length: {LARGE}\r\n\r\n".encode())
        await client.read(b"\r\n\r\n")
        client.write(b"x" * LARGE)
        async with asyncio.timeout(TIMEOUT):
            await client.writer.drain()
            body = await client.reader.read()

        assert b'"type":"/problems/overloaded"' in body

    async def test_head_request(self, full_server: RunningServer) -> None:
        """The refusal of a HEAD request has no body."""
        client = await full_server.connect()
        response = await client.write(b"HEAD / HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n").read_to_end()

        assert response.startswith(b"HTTP/1.1 503 ")
        assert response.endswith(b"\r\n\r\n")

    @pytest.mark.parametrize(("origin", "is_allowed"), [(ORIGIN, True), ("https://other.example", False)])
    async def test_page_of_another_origin(self, full_server: RunningServer, origin: str, *, is_allowed: bool) -> None:
        """A page that may use the API can read the refusal."""
        client = await full_server.connect()
        client.write(f"GET / HTTP/1.1\r\nHost: gateway\r\nOrigin: {origin}\r\n\r\n".encode())
        head, _ = await read_response(client)

        assert (f"\r\naccess-control-allow-origin: {origin}\r\n" in head) is is_allowed

    async def test_repeated_requests(self, full_server: RunningServer) -> None:
        """A client that repeats its request at once is read again after a pause, which doubles with each refusal."""
        client = await full_server.connect()
        durations = []
        for _ in range(3):
            started_at = time.monotonic()
            client.write(REQUEST)
            await read_response(client)
            durations.append(time.monotonic() - started_at)

        assert durations[0] < MIN_PAUSE * 0.9  # the timers of uvloop have milliseconds
        assert MIN_PAUSE * 0.9 < durations[1] < 2 * MIN_PAUSE * 0.9 < durations[2]

    async def test_short_keep_alive_timeout(self, app: EchoApp) -> None:
        """A request that arrives in the pause gets its response, although the timeout of idle connections ends in the pause, too."""
        async with running_server(app, max_requests=1, keep_alive_timeout=MIN_PAUSE / 2) as server:
            (await server.connect()).write(HANGING)
            await wait_until(lambda: app.in_flight == 1, "a request is in flight")
            client = await server.connect()
            client.write(REQUEST)
            await read_response(client)
            client.write(REQUEST)
            head, _ = await read_response(client)
            app.release.set()

        assert head.startswith("http/1.1 503 ")

    async def test_client_that_disconnects(self, full_server: RunningServer) -> None:
        """A connection that is closed after a refusal is freed."""
        client = await full_server.connect()
        client.write(REQUEST)
        await read_response(client)
        client.reset()

        await wait_until(lambda: len(full_server.server.server_state.connections) == 1, "the connection is freed")

    async def test_client_that_reads_nothing(self, full_server: RunningServer) -> None:
        """A connection whose client reads no refusal is closed, so that the refusals do not fill the memory."""
        client = await full_server.connect()
        client.write(REQUEST)
        await read_response(client)
        connections = full_server.server.server_state.connections
        (connection,) = [each for each in connections if isinstance(each, LimitedHttpProtocol) and each.is_idle]
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.write(REQUEST * 200_000)
        await wait_until(connection.transport.is_closing, "the connection is closed")

        assert connection.transport.get_write_buffer_size() < MAX_UNSENT_BYTES
