"""The types of problems: each one occurs, is documented and has a page, and its response has what the type promises."""

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from structlog.testing import capture_logs

from gateway.api.observations import MAX_BODY_BYTES
from gateway.api.problem_types import MALFORMED_REQUEST, TYPES, ProblemType
from gateway.app import create_app
from gateway.briefs.models import Reason
from gateway.briefs.place_loader import PlaceUnavailableError
from gateway.event_loop import OverloadedError
from gateway.observations.reports import KeyInFlightError, KeyReusedError
from gateway.observations.writer import WriteRejectedError, WriteUnavailableError
from gateway.resources.database_errors import TooManyRequestsError
from gateway.serving.lifespan_manager import StatefulApp
from gateway.settings import Settings
from gateway.settings.api_keys import parse_api_key
from tests.serving.echo_app import EchoApp
from tests.serving.running_server import REQUEST, Client, running_server
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
REPORT = {"temperature_c": 12.5, "condition": "rain"}
OBSERVATIONS = "/v1/places/1/observations"
KEY = "the-key-of-this-test"
JSON_WITH_KEY = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}


class FakeConnection:
    """Replaces a connection to a database that has the place 1, and no observation."""

    async def execute(self, _statement: object, parameters: Mapping[str, Any]) -> "FakeConnection":
        self._parameters = parameters
        return self

    def first(self) -> None:
        return None


class FakeSession:
    async def connection(self) -> FakeConnection:
        return FakeConnection()


@dataclass
class FakeServices:
    """Replaces the `Services` of the lifespan. Each service raises `error`, or finds nothing."""

    error: Exception | None = None
    model: object = None
    briefs: "FakeServices" = field(init=False)
    writer: "FakeServices" = field(init=False)
    sessions: "FakeServices" = field(init=False)

    def __post_init__(self) -> None:
        self.briefs = self.writer = self.sessions = self

    async def get(self, _place_id: int, _requested_at: float | None) -> None:
        self._fail()

    async def get_many(self, _place_ids: list[int], _requested_at: float | None) -> None:
        self._fail()

    async def write(self, _report: object, _key: str | None) -> None:
        self._fail()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[FakeSession]:
        self._fail()
        yield FakeSession()

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


@dataclass
class Response:
    """A response: its status, its headers in lower case, and the text of its body.

    Attributes:
        request: the method, in lower case, and the path of the request to the app. None if the app has not received it.
    """

    status: int
    headers: Mapping[str, str]
    body: str
    request: tuple[str, str] | None = None

    @classmethod
    def parse(cls, text: str) -> "Response":
        """Parse the bytes of a response."""
        head, _, body = text.partition("\r\n\r\n")
        status_line, *lines = head.split("\r\n")
        return cls(int(status_line.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body)


async def send(
    app: FastAPI, method: str, path: str, error: Exception | None = None, *, started: bool = True, **request: Any
) -> Response:
    """Send a request to an app whose services raise an error."""
    state = {"services": FakeServices(error)} if started else {}
    transport = httpx.ASGITransport(StatefulApp(app, state), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        response = await client.request(method, path, **request)
    return Response(response.status_code, response.headers, response.text, (method.lower(), response.request.url.path))


async def report(app: FastAPI, error: Exception | None = None, **request: Any) -> Response:
    """Report an observation."""
    request.setdefault("headers", {"Authorization": f"Bearer {KEY}"})
    return await send(app, "POST", OBSERVATIONS, error, **({"json": REPORT} | request))


async def send_bytes(data: bytes, **limits: Any) -> Response:
    """Send bytes to a server with limits."""
    async with running_server(EchoApp(), **limits) as server:
        client = await server.connect()
        return Response.parse((await client.write(data).read_to_end()).decode())


async def connect_to_full_server(_app: FastAPI) -> Response:
    app = EchoApp()
    async with running_server(app, max_connections=1) as server:
        await start_request(await server.connect(), app)
        response = await (await server.connect()).read_to_end()
        app.release.set()
    return Response.parse(response.decode())


async def start_request(client: Client, app: EchoApp) -> None:
    client.write(REQUEST.replace(b"GET /", b"GET /hang"))
    await wait_until(lambda: app.in_flight == 1, "the request is in flight")


async def report_without_keys(_app: FastAPI) -> Response:
    return await report(create_app(Settings()))


async def send_foreign_preflight(_app: FastAPI) -> Response:
    app = create_app(Settings(cors_origins=("https://page.example",)))
    headers = {"Origin": "https://other.example", "Access-Control-Request-Method": "POST"}
    return await send(app, "OPTIONS", OBSERVATIONS, headers=headers)


async def cause_internal_error(app: FastAPI) -> Response:
    with capture_logs():  # drawing the traceback takes seconds
        return await send(app, "GET", "/v1/places/1/brief", ZeroDivisionError("a secret"))


def haproxy_response(status: int) -> Response:
    """Return HAProxy's own response, as its configuration describes it. tests/end_to_end/test_haproxy.py has a real one."""
    configuration = (ROOT / "deploy" / "haproxy.cfg").read_text()
    line = re.search(rf"http-error status {status} content-type (\S+) (.*?) lf-string '(.*)'", configuration)
    assert line is not None
    content_type, headers, body = (text.replace("%[var(txn.request_id)]", "mine") for text in line.groups())
    names_and_values = re.findall(r"hdr (\S+) (\S+)", headers)
    return Response(status, {"content-type": content_type} | {n.lower(): value for n, value in names_and_values}, body)


async def haproxy_502(_app: FastAPI) -> Response:
    return haproxy_response(502)


async def haproxy_503(_app: FastAPI) -> Response:
    return haproxy_response(503)


async def haproxy_504(_app: FastAPI) -> Response:
    return haproxy_response(504)


def unavailable(cause: Exception | None = None) -> PlaceUnavailableError:
    error = PlaceUnavailableError(Reason.TIMEOUT)
    error.__cause__ = cause
    return error


# The causes of the types, by slug.
CAUSES: dict[str, Callable[[FastAPI], Awaitable[Response]]] = {
    "malformed-request": lambda _: send_bytes(b"not HTTP\r\n\r\n"),
    "foreign-page": send_foreign_preflight,
    "api-key-required": lambda app: report(app, headers={}),
    "forbidden": report_without_keys,
    "unknown-path": lambda app: send(app, "GET", "/nowhere"),
    "unknown-place": lambda app: send(app, "GET", "/v1/places/1"),
    "unknown-observation": lambda app: send(app, "GET", f"{OBSERVATIONS}/1"),
    "unsupported-method": lambda app: send(app, "DELETE", "/livez"),
    "request-timeout": lambda _: send_bytes(b"GET / HTTP/1.1\r\nHost:", head_timeout=0.05),
    "idempotency-key-reused": lambda app: report(app, KeyReusedError()),
    "report-in-progress": lambda app: report(app, KeyInFlightError()),
    "body-too-large": lambda app: report(app, json=None, content=b" " * (MAX_BODY_BYTES + 1)),
    "unsupported-media-type": lambda app: report(app, json=None, content=b"{}"),
    "invalid-request": lambda app: report(app, json={}),
    "headers-too-large": lambda _: send_bytes(b"GET /" + 2000 * b"x", max_head_bytes=1000),
    "internal-error": cause_internal_error,
    "unavailable": lambda app: send(app, "GET", "/v1/places", started=False),
    "database-unavailable": lambda app: send(app, "GET", "/v1/places/1/brief", unavailable()),
    "overloaded": lambda app: send(app, "GET", "/v1/places", TooManyRequestsError()),
    "too-many-connections": connect_to_full_server,
    "not-stored": lambda app: report(app, WriteRejectedError("The gateway is stopping")),
    "outcome-unknown": lambda app: report(app, WriteUnavailableError("The database is too slow")),
    "no-response": haproxy_502,
    "no-replica": haproxy_503,
    "slow-response": haproxy_504,
}

MORE_CAUSES: list[tuple[str, Callable[[FastAPI], Awaitable[Response]]]] = [
    ("malformed-request", lambda app: report(app, json=None, content=b"{", headers=JSON_WITH_KEY)),
    ("malformed-request", lambda app: send(app, "POST", "/v1/predictions", content=b"{", headers=JSON_WITH_KEY)),
    ("unknown-place", lambda app: send(app, "GET", "/v1/places/1/brief")),
    ("invalid-request", lambda app: send(app, "POST", "/v1/predictions", json={})),
    ("overloaded", lambda app: send(app, "GET", "/v1/places/1/brief", unavailable(OverloadedError()))),
    ("overloaded", lambda app: send(app, "GET", "/v1/briefs?place=1", unavailable(OverloadedError()))),
    ("database-unavailable", lambda app: send(app, "GET", "/v1/briefs?place=1", unavailable())),
    ("overloaded", lambda app: send(app, "GET", f"{OBSERVATIONS}/1", TooManyRequestsError())),
]


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(Settings(api_keys=(parse_api_key(f"alice:{KEY}"),)))


def assert_has_type(response: Response, problem_type: ProblemType) -> None:
    """Assert that a response is what the type promises."""
    body = json.loads(response.body)
    assert response.headers["content-type"] == "application/problem+json"
    assert response.status == body["status"] == problem_type.status
    assert (body["type"], body["title"]) == (f"/problems/{problem_type.slug}", problem_type.title)
    assert body["detail"]
    assert body["request_id"] == response.headers["x-request-id"]
    retry_after = response.headers.get("retry-after")
    assert retry_after == (None if problem_type.retry_after is None else str(problem_type.retry_after))


def described_types(app: FastAPI, method: str, path: str, status: int) -> set[str] | None:
    """Return the types that the OpenAPI has for a response, or None if it does not have the operation."""
    for template, operations in app.openapi()["paths"].items():
        if re.fullmatch(re.sub(r"{\w+}", r"\\d+", template), path) and method in operations:
            response = operations[method]["responses"].get(str(status), {})
            return set(response.get("content", {}).get("application/problem+json", {}).get("examples", {}))
    return None


@pytest.mark.parametrize("problem_type", TYPES, ids=lambda it: it.slug)
async def test_each_type_occurs(app: FastAPI, problem_type: ProblemType) -> None:
    """Each type occurs, with its status and title, the id of the request, and `Retry-After` if waiting helps."""
    assert_has_type(await CAUSES[problem_type.slug](app), problem_type)


@pytest.mark.parametrize(("slug", "cause"), [*CAUSES.items(), *MORE_CAUSES])
async def test_each_type_is_described(app: FastAPI, slug: str, cause: Callable[[FastAPI], Awaitable[Response]]) -> None:
    """The OpenAPI has the type of each problem of each operation."""
    response = await cause(app)
    described = None if response.request is None else described_types(app, *response.request, response.status)

    assert json.loads(response.body)["type"] == f"/problems/{slug}"
    assert described is None or slug in described


def test_types_that_should_be_retried() -> None:
    """Exactly the transient problems have `Retry-After`. All have different slugs."""
    retried = {it.status.value for it in TYPES if it.retry_after is not None}
    not_retried = {it.status.value for it in TYPES if it.retry_after is None}

    assert retried == {409, 502, 503, 504}
    assert not_retried & retried == set()
    assert len({it.slug for it in TYPES}) == len(TYPES)


@pytest.mark.parametrize("body", [b"{bad", b" ", b"[" * 10_000, b'"\xff"'])
async def test_malformed_body(app: FastAPI, body: bytes) -> None:
    """A body that cannot be parsed is a malformed request, as one that is not HTTP is."""
    response = await report(app, json=None, content=body, headers=JSON_WITH_KEY)

    assert_has_type(response, MALFORMED_REQUEST)


def test_malformed_chunk_at_haproxy() -> None:
    """HAProxy's problem for a malformed body has the type of the gateway's."""
    assert_has_type(haproxy_response(400), MALFORMED_REQUEST)


async def test_problem_has_the_id_of_the_client(app: FastAPI) -> None:
    """A problem has the id that the client sent, whether the app or the HTTP server creates it."""
    from_app = await send(app, "GET", "/nowhere", headers={"X-Request-ID": "mine"})
    from_server = await send_bytes(b"GET / HTTP/1.1\r\nX-Request-ID: mine\r\nHost:", head_timeout=0.05)

    assert [json.loads(response.body)["request_id"] for response in (from_app, from_server)] == ["mine", "mine"]


async def test_types_behind_a_prefix(app: FastAPI) -> None:
    """Behind a proxy that removes a prefix, the type has the prefix."""
    async with running_server(StatefulApp(app, {}), root_path="/weather") as server:
        client = await server.connect()
        from_app = await client.write(
            b"GET /nowhere HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n"
        ).read_to_end()
        client = await server.connect()
        from_server = await client.write(b"not HTTP\r\n\r\n").read_to_end()

    responses = [Response.parse(response.decode()) for response in (from_app, from_server)]
    assert [json.loads(response.body)["type"] for response in responses] == [
        "/weather/problems/unknown-path",
        "/weather/problems/malformed-request",
    ]


async def test_pages(app: FastAPI) -> None:
    """Each type is a path of the gateway with a page about it, and the list links to all pages."""
    links = re.findall(r'href="([^"]*)"', (await send(app, "GET", "/problems")).body)

    assert links == [f"problems/{it.slug}" for it in TYPES]  # relative, so that they work behind a prefix
    for it in TYPES:
        page = await send(app, "GET", it.path)
        assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert it.title in page.body
        assert "`" not in page.body


async def test_page_of_an_unknown_type(app: FastAPI) -> None:
    """A type that does not exist has no page."""
    response = await send(app, "GET", "/problems/<script>")

    assert response.status == 404
    assert "script" not in response.body


def test_types_are_documented() -> None:
    """docs/problems.md has a section for each type, with the text of the table."""
    page = (ROOT / "docs" / "problems.md").read_text()
    sections = re.split(r"^### ", page.split("\n## Types\n")[1], flags=re.MULTILINE)[1:]
    expected = []
    for it in TYPES:
        wait = "" if it.retry_after is None else f" `Retry-After: {it.retry_after}`."
        expected.append(f"{it.slug}\n\n{it.status.value}: {it.title}.{wait}\n\n{it.explanation}")

    assert [section.strip() for section in sections] == expected
