"""The load generator ends at the first wrong response, and measures the right ones."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from benchmarks import workloads
from benchmarks.load import LoadResult, LoadSpec, apply_load, percentile
from benchmarks.overload import OverloadState
from benchmarks.workloads import HELLO, SeededPlace, WrongResponseError

PLACES = [SeededPlace(id=number, views=7) for number in range(1, 30)]
Respond = Callable[[int], bytes]  # takes the id of the requested place


def brief(place_id: int, **fields: Any) -> dict[str, Any]:
    """Return the fields of a complete brief that the load generator checks, replaced by `fields`."""
    return {
        "place": {"id": place_id},
        "complete": True,
        "sections": {
            "weather": {"status": "ok", "data": {"today": dict.fromkeys("abcdef", 1)}},
            "outlook": {"data": {"wet_tomorrow_probability": 0.5}},
            "observations": {"data": [{"place_id": place_id}] * 5},
            "popularity": {"data": {"views": 7}},
        },
    } | fields


def http(body: object, *, status: int = 200) -> bytes:
    content = json.dumps(body).encode()
    return f"HTTP/1.1 {status} Status\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


@asynccontextmanager
async def serving(respond: Respond, *, close_after_response: bool = False) -> AsyncIterator[int]:
    """Serve `respond(place_id)` for each request inside the block; yield the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                writer.write(respond(int(request.split(b"/")[3])))
                await writer.drain()
                if close_after_response:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has closed the connection
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def load(port: int, **fields: Any) -> LoadResult:
    """Apply a short load, with the fields of the spec replaced by `fields`."""
    spec = LoadSpec(
        workload="brief",
        port=port,
        connections=3,
        places=PLACES,
        prime=True,
        warm_up=0.02,
        duration=0.1,
        seed=1,
    )
    return await apply_load(spec.model_copy(update=fields))


async def test_right_responses_are_counted_and_timed() -> None:
    """The result has the number of responses, their rate, latency percentiles and the CPU time of the load generator."""
    async with serving(lambda place_id: http(brief(place_id))) as port:
        started_at = time.perf_counter()
        result = await load(port, duration=0.5)
        elapsed = time.perf_counter() - started_at

    assert result.responses > len(PLACES)
    assert result.responses / elapsed < result.requests_per_second <= result.responses / 0.5
    assert 0 < result.p50_ms <= result.p99_ms < elapsed * 1e3
    assert result.cpu_us["load"] > 0


@pytest.mark.parametrize(
    ("respond", "message"),
    [
        pytest.param(lambda place_id: http(brief(place_id % 29 + 1)), "place: ", id="other place"),
        pytest.param(lambda place_id: http(brief(place_id), status=503), "status: 503", id="status"),
        pytest.param(lambda place_id: http(brief(place_id, complete=False)), "incomplete", id="incomplete"),
        pytest.param(lambda place_id: http({"place": {"id": place_id}}), "KeyError", id="missing fields"),
        pytest.param(lambda _: http("{")[:-1] + b"{", "JSONDecodeError", id="no JSON"),
        pytest.param(lambda place_id: http(brief(place_id)) + b"x", "more than one response", id="too long"),
        pytest.param(lambda _: b"HTTP/1.1 200 OK\r\n\r\n{}", "without Content-Length", id="no length"),
    ],
)
async def test_wrong_response_ends_the_load(respond: Respond, message: str) -> None:
    """The error gives the reason and shows the request and the response."""
    async with serving(respond) as port:
        with pytest.raises(WrongResponseError, match=message) as caught:
            await load(port)

    assert "GET /v1/places/" in str(caught.value)
    assert "HTTP/1.1" in str(caught.value).split("\r\n\r\n", 1)[1]


async def test_observation_of_another_place_is_wrong() -> None:
    """A brief is wrong if a single one of its observations belongs to another place."""

    def respond(place_id: int) -> bytes:
        mixed = brief(place_id)
        mixed["sections"]["observations"]["data"] = [{"place_id": place_id}] * 4 + [{"place_id": 99}]
        return http(mixed)

    async with serving(respond) as port:
        with pytest.raises(WrongResponseError, match="places of the observations"):
            await load(port)


async def test_truncated_response_ends_the_load() -> None:
    """A connection that closes before the end of the body is a wrong response."""
    async with serving(lambda place_id: http(brief(place_id))[:-10], close_after_response=True) as port:
        with pytest.raises(WrongResponseError, match="lost before the end"):
            await load(port)


async def test_one_wrong_response_among_many_is_found() -> None:
    """The load ends at the 200th response, the only wrong one, and not at the end of its duration."""
    responses = 0

    def respond(place_id: int) -> bytes:
        nonlocal responses
        responses += 1
        return http(brief(place_id if responses != 200 else 99))

    async with serving(respond) as port:
        with pytest.raises(WrongResponseError, match="place: 99"):
            await load(port, duration=30)


async def test_too_few_places_for_one_request_each() -> None:
    """If each place may be requested once and none is left, the measurement is invalid."""
    async with serving(lambda place_id: http(brief(place_id))) as port:
        with pytest.raises(WrongResponseError, match="all places were requested"):
            await load(port, prime=False, each_once=True, duration=1)


async def test_overload_counts_responses_by_kind() -> None:
    """Refused, incomplete and late responses are counted apart from the complete ones in time, and have no part in their rate."""
    state = OverloadState(response_timeout=0.8)
    state.measuring = True
    request = workloads.brief(PLACES[0])
    complete, incomplete = (json.dumps(brief(1, complete=value)).encode() for value in (True, False))

    for _ in range(4):
        state.receive(request, 200, complete, 0.8)
    for _ in range(2):
        state.receive(request, 200, complete, 0.9)
    state.receive(request, 200, incomplete, 0.7)
    for _ in range(6):
        state.receive(request, 503, b"", 0.001)

    assert state.rates(2) == {"requests_per_second": 2, "late_per_second": 1.5, "refused_per_second": 3}
    assert sorted(state.latencies) == [0.7, 0.8, 0.8, 0.8, 0.8, 0.9, 0.9]


async def test_clients_of_an_overload_connect_again() -> None:
    """A client whose connection the server closes instead of a response opens another one for its next request."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        is_refused = connections <= 5
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                if is_refused:
                    break
                writer.write(http(brief(int(request.split(b"/")[3]))))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has closed the connection
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        result = await load(port, prime=False, response_timeout=5, connections=1, warm_up=0, duration=0.5)

    assert connections > 5
    assert result.requests_per_second > 0


async def test_wrong_response_ends_an_overload() -> None:
    """Only a refusal, or a section that is missing, is no reason to end an overload."""
    async with serving(lambda place_id: http(brief(place_id % 29 + 1))) as port:
        with pytest.raises(WrongResponseError, match="place: "):
            await load(port, prime=False, response_timeout=5)


async def test_recovery_ends_with_briefs_in_time() -> None:
    """The recovery is measured from the end of the load to the first of several complete briefs in a row."""
    recovers_at = time.perf_counter() + 1

    def respond(place_id: int) -> bytes:
        return http(brief(place_id, complete=time.perf_counter() > recovers_at))

    async with serving(respond) as port:
        result = await load(port, prime=False, response_timeout=5)
        ended_at = time.perf_counter()

    assert result.recovery_s is not None
    assert 0 < result.recovery_s < 1
    assert ended_at > recovers_at


async def test_ceiling_responses_are_checked() -> None:
    """The constant body of the hello ceilings is compared, too."""
    wrong_body = HELLO.replace(b"World", b"Earth")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(HELLO)}\r\n\r\n".encode() + wrong_body)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        with pytest.raises(WrongResponseError, match="body: "):
            await load(server.sockets[0].getsockname()[1], workload="hello", prime=False)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([5.0], 0.5, 5),
        ([5.0], 0.99, 5),
        (range(1, 101), 0.5, 50),
        (range(1, 101), 0.99, 99),
        (range(1, 1001), 0.99, 990),
    ],
)
def test_percentile_is_a_measured_value(values: "list[float]", share: float, expected: float) -> None:
    """A percentile is one of the values, without interpolation."""
    assert percentile(list(values), share) == expected
