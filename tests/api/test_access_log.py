"""The access log: off by default, and without anything that a client could forge or that may be secret."""

from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from structlog.testing import capture_logs

from gateway.app import create_app
from gateway.settings import Settings
from tests.api.test_routes_without_servers import ZURICH, FakeBriefService, client_of
from tests.serving.running_server import running_server

BRIEF = f"/v1/places/{ZURICH.id}/brief"


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(Settings(access_log=True))


async def access_lines(
    app: FastAPI, method: str, url: str, *, headers: dict[str, str] | None = None
) -> tuple[httpx.Response, list[Any]]:
    """Send a request. Return the response, and the lines of the access log."""
    with capture_logs() as logs:
        async with client_of(app, FakeBriefService()) as client:
            response = await client.request(method, url, headers=headers)
    app.state.failed_responses.close()
    return response, [line for line in logs if line["event"] == "access"]


async def test_line_of_a_response(app: FastAPI) -> None:
    """A response has one line. The query string is no part of it, because it may contain a secret."""
    response, (line,) = await access_lines(app, "GET", f"{BRIEF}?key=hunter2", headers={"X-Request-ID": "mine"})

    assert 0 < line.pop("duration_ms") < 60_000
    assert line == {
        "event": "access",
        "log_level": "info",
        "method": "GET",
        "path": BRIEF,
        "status": 422,  # the brief has no parameters
        "bytes": len(response.content),
        "request_id": "mine",
        "client": "127.0.0.1",
    }


async def test_off_by_default() -> None:
    """Without the setting there is no line."""
    _, lines = await access_lines(create_app(Settings()), "GET", BRIEF)

    assert (lines, Settings().access_log) == ([], False)


@pytest.mark.parametrize("path", ["/v1/places/2/brief", "/nowhere"])
async def test_line_of_a_problem(app: FastAPI, path: str) -> None:
    """An error has a line with the id of its response."""
    response, (line,) = await access_lines(app, "GET", path)

    assert (line["status"], line["request_id"]) == (response.status_code, response.headers["X-Request-ID"])


async def test_head_has_no_body(app: FastAPI) -> None:
    """A HEAD response has no bytes of a body."""
    _, (line,) = await access_lines(app, "HEAD", BRIEF)

    assert (line["method"], line["status"], line["bytes"]) == ("HEAD", 200, 0)


async def test_path_cannot_forge_a_line(app: FastAPI) -> None:
    """Line feeds and escape sequences in the path stay encoded."""
    _, (line,) = await access_lines(app, "GET", "/%0A%1B%5B2J%22")

    assert line["path"] == "/%0A%1B%5B2J%22"


@pytest.mark.parametrize(
    ("proxies", "forwarded", "client"),
    [
        ([], "192.0.2.7", "127.0.0.1"),
        (["198.51.100.0/24"], "192.0.2.7", "127.0.0.1"),
        (["127.0.0.0/8"], "192.0.2.7", "192.0.2.7"),
        (["127.0.0.0/8"], "203.0.113.9, 192.0.2.7", "192.0.2.7"),
        (["127.0.0.0/8"], 'a\tb"', "a%09b%22"),
    ],
)
async def test_client_behind_a_proxy(app: FastAPI, proxies: list[str], forwarded: str, client: str) -> None:
    """Only a trusted proxy sets the address of the client, and the client itself can put nothing before the proxy's entry."""
    with capture_logs() as logs:
        async with (
            running_server(app, trusted_proxies=proxies) as server,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as http,
        ):
            await http.get("/livez", headers={"X-Forwarded-For": forwarded})

    assert [line["client"] for line in logs if line["event"] == "access"] == [client]
