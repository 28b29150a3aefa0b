"""The routes of `gateway dev` for its servers: who may use them, their responses, and that `gateway serve` lacks them."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from gateway.app import create_app
from gateway.devstack.control import ServerControl
from gateway.devstack.control_socket import ControlClient, serve_control
from gateway.devstack.dev_app import create_dev_app, get_control
from gateway.devstack.redis import RedisServer
from gateway.settings import Settings
from gateway.settings.api_keys import parse_api_key

LOCAL = "http://localhost:8000"
SERVERS = "/dev/servers"
KILL = f"{SERVERS}/redis/kill"


@pytest.fixture(scope="module")
def app() -> FastAPI:
    """An app whose settings have all keys: the routes need none of them."""
    settings = Settings(
        api_keys=(parse_api_key("alice:the-key-of-a-client"),),
        operator_keys=(parse_api_key("bob:the-key-of-an-operator"),),
    )
    return create_dev_app(settings, ControlClient(Path("/nonexistent")))


def client_of(app: FastAPI, *, address: str = "127.0.0.1") -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(address, 50000)), base_url=LOCAL)


@pytest.fixture
async def client(
    app: FastAPI, redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app whose servers are one Redis."""
    monkeypatch.setitem(app.dependency_overrides, get_control, lambda: ControlClient(tmp_path / "control"))
    async with serve_control(ServerControl({"redis": redis}), tmp_path / "control"), client_of(app) as client:
        yield client


def problem(response: httpx.Response) -> tuple[int, str]:
    """Return the status and the type of a problem, without its path."""
    assert response.headers["Content-Type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == response.status_code
    return response.status_code, body["type"].removeprefix("/problems/")


async def test_list_and_action(client: httpx.AsyncClient) -> None:
    """The list has each server, and an action returns the server after it."""
    listed = await client.get(SERVERS)
    suspended = await client.post(f"{SERVERS}/redis/suspend")

    assert listed.json() == {
        "items": [
            {"name": "redis", "entry": "redis", "status": "running", "actions": ["suspend", "kill", "restart"]},
        ]
    }
    assert listed.headers["Cache-Control"] == "no-store"
    assert suspended.json() == {
        "name": "redis",
        "entry": "redis",
        "status": "suspended",
        "actions": ["resume", "kill", "restart"],
    }


async def test_action_that_does_not_fit(client: httpx.AsyncClient) -> None:
    """An action that does not fit the status is a conflict, and its problem lists those that fit."""
    response = await client.post(f"{SERVERS}/redis/resume")

    assert problem(response) == (409, "about:blank")
    assert response.json()["detail"].endswith("Possible actions: suspend, kill, restart.")
    assert "Retry-After" not in response.headers


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        pytest.param("POST", f"{SERVERS}/valkey/kill", (404, "unknown-path"), id="server"),
        pytest.param("POST", f"{SERVERS}/redis/pause", (422, "invalid-request"), id="action"),
        pytest.param("GET", KILL, (405, "unsupported-method"), id="method"),
        pytest.param("POST", SERVERS, (405, "unsupported-method"), id="method of the list"),
    ],
)
async def test_invalid_request(
    client: httpx.AsyncClient, redis: RedisServer, method: str, path: str, expected: tuple[int, str]
) -> None:
    """An unknown server, action or method is a problem, and changes nothing."""
    assert problem(await client.request(method, path)) == expected
    assert redis.running


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="program"),
        pytest.param({"Origin": LOCAL, "Sec-Fetch-Site": "same-origin"}, id="page of this gateway"),
        pytest.param({"Host": "[::1]:8000", "Origin": "http://[::1]:8000"}, id="IPv6"),
    ],
)
async def test_accepted_request(client: httpx.AsyncClient, redis: RedisServer, headers: dict[str, str]) -> None:
    """Programs on this machine and pages of this gateway control the servers. They need no key."""
    assert (await client.post(KILL, headers=headers)).status_code == 200
    assert not redis.running


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"X-Forwarded-For": "127.0.0.1"}, id="proxy"),
        pytest.param({"Via": "1.1 proxy"}, id="other proxy"),
        pytest.param({"Host": "evil.example"}, id="DNS rebinding"),
        pytest.param({"Origin": "http://evil.example"}, id="other site"),
        pytest.param({"Origin": "null"}, id="sandboxed page"),
        pytest.param({"Origin": "http://localhost:3000"}, id="other port"),
        pytest.param({"Origin": "https://localhost:8000"}, id="other scheme"),
        pytest.param({"Sec-Fetch-Site": "same-site"}, id="other port without Origin"),
        pytest.param({"Sec-Fetch-Site": "cross-site"}, id="other site without Origin"),
    ],
)
async def test_foreign_request(app: FastAPI, method: str, headers: dict[str, str]) -> None:
    """A request through a proxy or from a page of another origin is forbidden."""
    async with client_of(app) as client:
        response = await client.request(method, SERVERS if method == "GET" else KILL, headers=headers)

    assert problem(response) == (403, "forbidden")
    assert "Send the request directly to localhost" in response.json()["detail"]


async def test_other_machine(app: FastAPI) -> None:
    """A request from another machine is forbidden, although it claims to be for localhost."""
    async with client_of(app, address="192.0.2.1") as client:
        assert problem(await client.post(KILL)) == (403, "forbidden")


@pytest.mark.parametrize(("method", "path"), [("GET", SERVERS), ("POST", KILL)])
async def test_without_the_other_process(app: FastAPI, method: str, path: str) -> None:
    """If the process that owns the servers has ended, the response is 503."""
    async with client_of(app) as client:
        response = await client.request(method, path)

    assert problem(response) == (503, "unavailable")
    assert response.json()["detail"] == "`gateway dev` has ended or does not respond. Start it again."
    assert response.headers["Retry-After"] == "1"


def test_only_new_routes(app: FastAPI) -> None:
    """The app has the routes of `gateway serve`, and those for its servers. The OpenAPI describes both."""
    served, dev = create_app(Settings()), app
    new = {route.path for route in iter_route_contexts(dev.routes)} - {
        route.path for route in iter_route_contexts(served.routes)
    }

    assert new == {SERVERS, f"{SERVERS}/{{name}}/{{action}}"}
    assert dev.openapi()["paths"].keys() - served.openapi()["paths"].keys() == new


async def test_serve_has_no_such_route() -> None:
    """`gateway serve` has neither route. No setting adds them: `gateway.app` does not import the devstack."""
    async with client_of(create_app(Settings())) as client:
        listed, killed = await client.get(SERVERS), await client.post(KILL)

    assert problem(listed) == problem(killed) == (404, "unknown-path")
