"""The load convicts who answers wrongly, and counts who answers well."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from benchmarks.load import Order, Tally, percentile, put_on
from benchmarks.workloads import HELLO, Place, WrongAnswerError

PLACES = [Place(id=number, views=7) for number in range(1, 30)]
Answer = Callable[[int], bytes]


def brief(place_id: int, **others: Any) -> dict[str, Any]:
    """A whole brief, as far as the load looks at it."""
    return {
        "place": {"id": place_id},
        "complete": True,
        "sections": {
            "weather": {"status": "ok", "data": {"today": dict.fromkeys("abcde", 1)}},
            "outlook": {"data": {"wet_tomorrow_probability": 0.5}},
            "observations": {"data": [{"place_id": place_id}] * 5},
            "popularity": {"data": {"views": 7}},
        },
    } | others


def http(body: object, *, status: int = 200, length: int | None = None) -> bytes:
    content = json.dumps(body).encode()
    length = len(content) if length is None else length
    return f"HTTP/1.1 {status} Whatever\r\nContent-Length: {length}\r\n\r\n".encode() + content


@asynccontextmanager
async def answering(answer: Answer, *, then_close: bool = False) -> AsyncIterator[int]:
    """Serve what `answer` says of the place asked for; yield the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                writer.write(answer(int(request.split(b"/")[3])))
                await writer.drain()
                if then_close:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the load has gone
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def load(port: int, **others: Any) -> Tally:
    order: dict[str, Any] = {
        "kind": "brief", "ports": [port], "connections": 3, "places": PLACES, "prime": True, "warm_up": 0.02, "seconds": 0.1, "seed": 1
    } | others  # fmt: skip
    return await put_on(Order.model_validate(order))


async def test_right_answers_are_counted_and_timed() -> None:
    async with answering(lambda place_id: http(brief(place_id))) as port:
        started = time.perf_counter()
        tally = await load(port, seconds=0.5)
        duration = time.perf_counter() - started
    assert tally.answers > len(PLACES)
    assert tally.answers / duration < tally.per_second <= tally.answers / 0.5
    assert 0 < tally.p50_ms <= tally.p99_ms < duration * 1e3
    assert tally.cpu_us["load"] > 0


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        pytest.param(lambda place_id: http(brief(place_id % 29 + 1)), "place: ", id="another place"),
        pytest.param(lambda place_id: http(brief(place_id), status=503), "status: 503", id="status"),
        pytest.param(lambda place_id: http(brief(place_id, complete=False)), "complete: False", id="incomplete"),
        pytest.param(lambda place_id: http({"place": {"id": place_id}}), "KeyError", id="half of it"),
        pytest.param(lambda _: http("{")[:-1] + b"{", "JSONDecodeError", id="no JSON"),
        pytest.param(lambda place_id: http(brief(place_id)) + b"x", "more than one answer", id="too long"),
        pytest.param(lambda _: b"HTTP/1.1 200 OK\r\n\r\n{}", "does not say how long", id="without a length"),
    ],
)
async def test_a_wrong_answer_fails_the_run_and_is_shown(answer: Answer, complaint: str) -> None:
    async with answering(answer) as port:
        with pytest.raises(WrongAnswerError, match=complaint) as failure:
            await load(port)
    assert "GET /v1/places/" in str(failure.value)
    assert "HTTP/1.1" in str(failure.value).split("\r\n\r\n", 1)[1]


async def test_observations_of_another_place_are_a_wrong_answer() -> None:
    def mixed(place_id: int) -> bytes:
        whole = brief(place_id)
        whole["sections"]["observations"]["data"] = [{"place_id": place_id}] * 4 + [{"place_id": 99}]
        return http(whole)

    async with answering(mixed) as port:
        with pytest.raises(WrongAnswerError, match="places of the observations"):
            await load(port)


async def test_a_truncated_answer_fails_the_run() -> None:
    async with answering(lambda place_id: http(brief(place_id))[:-10], then_close=True) as port:
        with pytest.raises(WrongAnswerError, match="lost before the end"):
            await load(port)


async def test_one_wrong_answer_among_many_is_enough() -> None:
    asked = 0

    def answer(place_id: int) -> bytes:
        nonlocal asked
        asked += 1
        return http(brief(place_id if asked != 200 else 99))

    async with answering(answer) as port:
        with pytest.raises(WrongAnswerError, match="place: 99"):
            await load(port, seconds=30)


async def test_places_that_are_asked_for_once_may_run_out() -> None:
    async with answering(lambda place_id: http(brief(place_id))) as port:
        with pytest.raises(WrongAnswerError, match="all places were asked for"):
            await load(port, prime=False, each_once=True, seconds=1)


async def test_a_roof_is_checked_too() -> None:
    def hello(_: int) -> bytes:
        return f"HTTP/1.1 200 OK\r\ncontent-length: {len(HELLO)}\r\n\r\n".encode() + HELLO.replace(b"World", b"Wordl")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(hello(0))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        with pytest.raises(WrongAnswerError, match="body: "):
            await load(server.sockets[0].getsockname()[1], kind="hello", prime=False)


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
def test_a_percentile_is_a_value_that_was_seen(values: "list[float]", share: float, expected: float) -> None:
    assert percentile(list(values), share) == expected
