"""The cost of requests that are refused: it stays small, however a body, a query or a header is composed.

The tests need no servers (see test_routes_without_servers.py). They measure the CPU time of the thread, which hardly depends on the
load of the machine. No request waits for anything, so each one is a single turn of the event loop.
"""

import gc
import json
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.datastructures import Headers
from starlette.types import Message

from gateway.api.field_errors import MAX_ERRORS
from gateway.api.predictions import MAX_DAYS
from gateway.api.problems import EXCEPTION_HANDLERS
from gateway.app import create_app
from gateway.cli import GC_THRESHOLD
from gateway.dependencies import NotStartedError
from gateway.resources.model import load
from gateway.serving.lifespan_manager import StatefulApp
from gateway.settings import SHIPPED_MODEL, Settings
from gateway.settings.api_keys import parse_api_key

MAX_TURN = 0.025  # seconds of CPU time
MAX_RESPONSE_BYTES = 4096
HEAD_BYTES = Settings.model_fields["max_head_bytes"].default
KEY = "the-key-of-this-test"

DAY = {
    "precipitation_mm": 1234.5678901234567,
    "temperature_max_c": -12.345678901234567,
    "temperature_min_c": -23.456789012345678,
    "wind_speed_m_s": 123.45678901234567,
    "date": "2026-11-24",
    "latitude": -12.345678901234567,
}

# JSON values, and the ways in which a body repeats them up to its limit.
VALUES = [
    "1",
    "NaN",
    "1.5",
    "-12.345678901234567",
    "9.999999999999999e-300",
    "7" * 300,
    "7" * 4300,  # the longest integer that Python converts
    "7" * 4301,
    "0." + "7" * 1000,
    '""',
    r'"\n\u00e9"',
    r'"\ud800"',
    "null",
    "[]",
    "{}",
    '{"": 0}',
    "[" * 300 + "]" * 300,
    '{"":' * 300 + "0" + "}" * 300,
    json.dumps({f"unknown {number}": number for number in range(100)}),
    json.dumps(DAY),
    json.dumps(DAY | {"latitude": 91}),
    json.dumps(DAY | {"unknown": 1}),
    json.dumps(dict.fromkeys(DAY)),
]
REPETITIONS: list[Callable[[str, int], str]] = [
    lambda value, times: f"[{','.join([value] * times)}]",
    lambda value, times: f'{{"days": [{",".join([value] * times)}]}}',
    lambda value, times: f'{{"note": [{",".join([value] * times)}]}}',
    lambda value, times: "{" + ",".join([f'"days": {value}'] * times) + "}",
    lambda value, times: "{" + ",".join(f'"{number:05x}": {value}' for number in range(times)) + "}",
    lambda value, times: "[" + f"{value}," * times,
]


def bodies(limit: int) -> Iterator[bytes]:
    """Return bodies that are invalid for each route, most of them as long as the limit permits."""
    repeated = [
        repeat(value, limit // (len(repeat(value, 100)) // 100 + 1)).encode()
        for value in VALUES
        for repeat in REPETITIONS
    ]
    yield from repeated
    for content in (b" ", b"\n", b"[", b'{"":', b"\xff", b"\0", b"1", b"-"):
        yield content * (limit // len(content))
    for before, after in [
        (b'{"days": "', b'"}'),
        (b'{"', b'": 1}'),
        (b'{"days": [{"date": "', b'"}]}'),
        (b'{"days": 1.', b"}"),
    ]:
        yield from (before + fill * (limit - len(before + after)) + after for fill in (b"x", b"7", b" "))
    yield ("[" + "1," * (limit // 4 - 2) + "1]").encode("utf-16-le")
    yield ("[" * (limit // 4)).encode("utf-32-le")
    random_source = random.Random(1)  # noqa: S311 - reproducible, not secret
    for _ in range(40):  # parts of two bodies, with some bytes replaced
        first, second = random_source.sample(repeated, 2)
        mixed = bytearray(first[: random_source.randrange(limit)] + second[random_source.randrange(limit) :])[:limit]
        for _ in range(random_source.randrange(3)):
            mixed[random_source.randrange(len(mixed))] = random_source.randrange(256)
        yield bytes(mixed)


def queries() -> Iterator[bytes]:
    """Return queries, most of them as long as a head may be."""
    for part in (
        b"&",
        b"a&",
        b"a=&",
        b"place=1&",
        b"place=x&",
        b"place=%31&",
        b"limit=0&",
        b"q=+&",
        b"%c3%bc&",
        b"%ff",
    ):
        yield part * (HEAD_BYTES // len(part))
        yield part * 99
    for name in (b"place", b"q", b"limit"):
        yield from (name + b"=" + fill * (HEAD_BYTES // len(fill) - 10) for fill in (b"1", b"x", b"%ff", b"%00"))


def headers() -> Iterator[list[tuple[bytes, bytes]]]:
    """Return headers, most of them as long as a head may be."""
    for name in (b"idempotency-key", b"content-type", b"content-length", b"authorization", b"x-request-id", b"cookie"):
        yield [(name, b"x" * HEAD_BYTES)]
        yield [(name, b'; a="' * (HEAD_BYTES // 5))]
        yield [(name, b"1")] * (HEAD_BYTES // (len(name) + 5))
    yield [(b"x", b"")] * (HEAD_BYTES // 5)


class NoBackend:
    """Replaces each service, and the database session. It fails when a route uses it."""

    @asynccontextmanager
    async def open(self) -> Any:
        yield self

    def __getattr__(self, name: str) -> Any:
        raise NotStartedError


@dataclass
class Result:
    """The response to one request.

    Attributes:
        errors: the number of errors that were built for it.
        cpu_time: in seconds.
    """

    status: int
    headers: Headers
    body: bytes
    errors: int
    cpu_time: float


class MeasuredApp:
    """The app without servers, called without a client or a server that would need CPU time, too."""

    def __init__(self, **services: object) -> None:
        self.app = create_app(Settings(api_keys=(parse_api_key(f"alice:{KEY}"),)))
        self.app.add_exception_handler(RequestValidationError, self._count_errors)
        self._services = SimpleNamespace(
            **dict.fromkeys(("briefs", "model", "sessions", "writer"), NoBackend()) | services
        )
        self._errors = 0

    async def _count_errors(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        self._errors = len(error.errors())
        return await EXCEPTION_HANDLERS[RequestValidationError](request, error)

    async def send(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        query: bytes = b"",
        headers: Sequence[tuple[bytes, bytes]] = (),
        receive: Callable[[], Awaitable[Message]] | None = None,
    ) -> Result:
        defaults = {
            b"host": b"localhost",
            b"authorization": f"Bearer {KEY}".encode(),
            b"content-type": b"application/json",
        }
        for name, _ in headers:
            defaults.pop(name, None)
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query,
            "root_path": "",
            "headers": [*defaults.items(), *headers],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
        }
        sent: list[Message] = []

        async def receive_body() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def collect(message: Message) -> None:
            sent.append(message)

        app = StatefulApp(self.app, {"services": self._services})
        self._errors = 0
        started_at = time.thread_time()
        await app(scope, receive or receive_body, collect)
        cpu_time = time.thread_time() - started_at
        content = b"".join(message.get("body", b"") for message in sent[1:])
        return Result(sent[0]["status"], Headers(raw=sent[0]["headers"]), content, self._errors, cpu_time)

    async def objections(self, name: str, method: str, path: str, **request: Any) -> list[str]:
        """Return what is wrong with the response to a request that should be refused at a low cost."""
        result = await self.send(method, path, **request)
        cpu_time = result.cpu_time
        if cpu_time > MAX_TURN:  # another process on the same core can double it, so the least of three counts
            cpu_time = min([cpu_time, *[(await self.send(method, path, **request)).cpu_time for _ in range(2)]])
        objections = {
            f"status {result.status}": result.status < 400 or result.status == 500,
            f"{result.errors} errors": result.errors > MAX_ERRORS,
            f"{len(result.body)} bytes": len(result.body) > MAX_RESPONSE_BYTES,
            f"{cpu_time * 1000:.0f} ms": cpu_time > MAX_TURN,
        }
        return [f"{name}: {objection}" for objection, applies in objections.items() if applies]


@dataclass(frozen=True)
class Operation:
    """A method of a path, with the limit of its body, or None if it takes none."""

    method: str
    path: str
    body_limit: int | None
    has_query: bool


def operations(app: FastAPI) -> list[Operation]:
    return [
        Operation(
            method,
            str(context.path).format(place_id=1, observation_id=1, slug="forbidden", file="page.css"),
            context.max_body_size if context.body_field else None,
            bool(context.dependant.query_params),
        )
        for context in iter_route_contexts(app.routes)
        if hasattr(context, "dependant")
        for method in context.methods or ()
    ]


@pytest.fixture(scope="module", autouse=True)
def _collector_as_in_production() -> Iterator[None]:
    """Collect garbage as `gateway serve` does. Otherwise a turn might pay for the objects of earlier tests."""
    gc.collect()
    gc.freeze()
    threshold = gc.get_threshold()
    gc.set_threshold(GC_THRESHOLD)
    yield
    gc.set_threshold(*threshold)
    gc.unfreeze()


async def test_refused_bodies() -> None:
    """No invalid body holds the event loop for long, builds many errors or gets a long response."""
    app = MeasuredApp()
    with_body = [operation for operation in operations(app.app) if operation.body_limit is not None]
    objections = []
    for operation in with_body:
        assert operation.body_limit is not None
        await app.send(operation.method, operation.path, body=b"{}")  # the first request fills caches
        for body in bodies(operation.body_limit):
            assert len(body) <= operation.body_limit
            name = f"{operation.path} {body[:40]!r}"
            objections += await app.objections(name, operation.method, operation.path, body=body)

    assert {operation.path for operation in with_body} == {"/v1/places/1/observations", "/v1/predictions"}
    assert objections == []


async def test_refused_heads() -> None:
    """No query and no header holds the event loop for long, builds many errors or gets a long response."""
    app = MeasuredApp()
    objections = []
    for operation in operations(app.app):
        if operation.has_query:
            await app.send(operation.method, operation.path)
            for query in queries():
                name = f"{operation.path}?{query[:40].decode()}"
                objections += await app.objections(name, operation.method, operation.path, query=query)
        if operation.body_limit is not None:
            await app.send(operation.method, operation.path, body=b"{}")
            for each in headers():
                name = f"{operation.path} {each[0][0].decode()} {each[0][1][:10].decode()}"
                objections += await app.objections(name, operation.method, operation.path, headers=each, body=b"{}")

    assert objections == []


async def test_many_parameters() -> None:
    """A query with more than 100 parameters gets a problem, whatever the path."""
    result = await MeasuredApp().send("GET", "/livez", query=b"&" * 100)

    assert (result.status, json.loads(result.body)["status"]) == (422, 422)
    assert (await MeasuredApp().send("GET", "/livez", query=b"&" * 99)).status == 200


async def test_largest_valid_body() -> None:
    """The predictions of the maximum number of days, with all digits and indented, are no long turn of the event loop."""
    with ThreadPoolExecutor(1) as executor:
        app = MeasuredApp(model=load(SHIPPED_MODEL, executor))
        body = json.dumps({"days": [DAY] * MAX_DAYS}, indent=4).encode()
        results = [await app.send("POST", "/v1/predictions", body=body) for _ in range(4)]

    assert [result.status for result in results] == [200] * 4
    assert min(result.cpu_time for result in results[1:]) <= MAX_TURN


async def test_one_unknown_key_is_reported() -> None:
    """The error names one unknown key and all other invalid fields. A long key is not repeated."""
    app = MeasuredApp()
    body = json.dumps({"x" * 1000: 1, "other": 1, "condition": "lava"}).encode()

    result = await app.send("POST", "/v1/places/1/observations", body=body)

    errors = [error["pointer"] for error in json.loads(result.body)["errors"]]
    assert errors == ["#/temperature_c", "#/condition", "#"]


@pytest.mark.parametrize("key", ["Bearer wrong", ""])
async def test_body_without_a_valid_key_is_not_read(key: str) -> None:
    """The body of a client without a valid key is not even received."""

    async def receive() -> Message:
        raise AssertionError("the body is received")

    headers = [(b"authorization", key.encode())]
    result = await MeasuredApp().send("POST", "/v1/places/1/observations", headers=headers, receive=receive)

    assert result.status == 401


async def test_large_body_without_a_valid_key_is_not_read() -> None:
    """The key is verified before the size of the body, so that a client without one cannot make the gateway read it."""

    async def receive() -> Message:
        raise AssertionError("the body is received")

    headers = [(b"authorization", b"Bearer wrong"), (b"content-length", b"20000")]
    result = await MeasuredApp().send("POST", "/v1/places/1/observations", headers=headers, receive=receive)

    assert result.status == 401


@pytest.mark.parametrize(
    ("header", "status"), [((b"content-length", b"200000"), 413), ((b"content-type", b"text/plain"), 415)]
)
async def test_body_is_not_requested_to_be_dropped(header: tuple[bytes, bytes], status: int) -> None:
    """A client that waits for `100 Continue` gets the refusal instead. The connection is closed: its body may follow or not."""

    async def receive() -> Message:
        raise AssertionError("the body is received")

    headers = [header, (b"expect", b"100-continue")]
    result = await MeasuredApp().send("POST", "/v1/predictions", headers=headers, receive=receive)

    assert (result.status, result.headers["connection"]) == (status, "close")


@pytest.mark.parametrize(("path", "limit"), [("/v1/places/1/observations", 16 * 1024), ("/v1/predictions", 117_120)])
async def test_limit_of_each_route(path: str, limit: int) -> None:
    """A body over the limit of its route gets a problem with this limit."""
    app = MeasuredApp()

    fits = await app.send("POST", path, body=b" " * limit)
    too_large = await app.send("POST", path, body=b" " * (limit + 1))

    assert (fits.status, too_large.status) == (400, 413)
    assert json.loads(too_large.body)["detail"] == f"The body is too large. Send at most {limit} bytes."
