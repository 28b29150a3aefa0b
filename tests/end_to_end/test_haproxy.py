"""HAProxy with the configuration of the compose stack, in front of `gateway serve`."""

import asyncio
import json
import re
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from gateway.devstack import ports
from gateway.settings import Settings
from tests.end_to_end.conftest import StartProcess
from tests.end_to_end.harness import ZURICH, Process, assert_complete_problem
from tests.support.waiting import TIMEOUT, wait_until

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "haproxy.cfg"
EXECUTE = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"

VALID_IDS = {
    "uuid": b"X-Request-ID: 0b4e9d2e-6d0c-4a50-a3dc-8a4ffb0d9d0e\r\n",
    "lower case": b"x-request-id: Root=1-67891233-abcdef012345678912345678\r\n",
    "128 characters": b"X-Request-ID: " + b"x" * 128 + b"\r\n",
    "all characters": b"X-Request-ID: AZaz09._~+/=:@-\r\n",
    "white space around it": b"X-Request-ID: \t mine \t \r\n",
}
INVALID_IDS = {
    "none": b"",
    "empty": b"X-Request-ID:\r\n",
    "space": b"X-Request-ID: two words\r\n",
    "129 characters": b"X-Request-ID: " + b"x" * 129 + b"\r\n",
    "comma": b"X-Request-ID: one,two\r\n",
    "two headers": b"X-Request-ID: one\r\nX-Request-ID: two\r\n",
    "the same twice": b"X-Request-ID: one\r\nX-Request-ID: one\r\n",
    "not ASCII": b"X-Request-ID: \xc3\xa9\r\n",
    "characters that the log escapes": b'X-Request-ID: a{b|c}d"e#f\r\n',
    "tab": b"X-Request-ID: a\tb\r\n",
}

PUBLIC_PATHS = (
    f"/v1/places/{ZURICH}",
    "/v1/places?q=z",
    "/docs",
    "/docs/swagger-ui.css",
    "/openapi.json",
    "/livez",
    "/readyz",
    "/readyz?x=1",
)
OTHER_TARGETS = (
    "/",
    "/v1",
    "/lifecycle",
    "/lifecycle?x=/v1/",
    "/lifecycle/",
    "//lifecycle",
    "/%6cifecycle",
    "/lifecycle/events",
    "/v1/../lifecycle",
    "/docs/../lifecycle",
    "/v1/%2e%2e/lifecycle",
    "http://gateway/lifecycle",
    "http://gateway/v1/../lifecycle",
)


@dataclass
class Exchange:
    """A request and its response.

    Attributes:
        sent_id: the value of its only X-Request-ID, or None.
        status: of the response.
        ids: the values of X-Request-ID in the response.
        body: of the response.
    """

    sent_id: str | None
    status: int
    ids: list[str]
    body: str

    @property
    def kept_id(self) -> bool:
        return self.ids == [self.sent_id]


async def exchange(port: int, target: str, headers: bytes, *, method: str = "GET") -> Exchange:
    """Send a request with the bytes of its headers. HTTP clients refuse to send some of them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with closing(writer):
        writer.write(
            f"{method} {target} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n".encode() + headers + b"\r\n"
        )
        async with asyncio.timeout(TIMEOUT):
            head, _, body = (await reader.read()).decode("latin-1").partition("\r\n\r\n")
    await writer.wait_closed()
    sent = re.findall(r"(?im)^x-request-id:[ \t]*(.*?)[ \t]*\r$", headers.decode("latin-1"))
    ids = re.findall(r"(?im)^x-request-id: (.*)\r?$", head)
    return Exchange(
        sent[0] if len(sent) == 1 else None, int(head.split()[1]), [each.rstrip("\r") for each in ids], body
    )


class HAProxy:
    """HAProxy in front of one gateway."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port

    async def logged_id(self, target: str) -> str:
        """Wait for the log line of a request and return the id in it."""
        line = re.compile(r"\{(.*)\} \"\w+ " + re.escape(target) + " HTTP")
        await wait_until(lambda: line.search(self.process.output) is not None, f"HAProxy has logged {target}")
        found = line.search(self.process.output)
        assert found is not None
        return found[1]


async def start_haproxy(run: StartProcess, folder: Path, gateway_address: str) -> HAProxy:
    """Start HAProxy with the configuration of the stack, on free ports and with the address of the gateway."""
    with closing(ports.reserve()) as public, closing(ports.reserve()) as health:
        port = public.getsockname()[1]
        text = CONFIGURATION.read_text()
        for stack_value, value in (
            ("bind :8080", f"bind 127.0.0.1:{port}"),
            ("127.0.0.1:8405", f"127.0.0.1:{health.getsockname()[1]}"),
            ("gateway 10 gateway:8000", f"gateway 1 {gateway_address}"),
        ):
            assert text.count(stack_value) == 1
            text = text.replace(stack_value, value)
        rendered = folder / "haproxy.cfg"
        rendered.write_text(text)
        process = run("-c", EXECUTE, "haproxy", "-db", "-f", str(rendered))

        async def listens() -> bool:
            async with httpx.AsyncClient() as client:
                try:
                    await client.get(f"http://127.0.0.1:{port}/livez")
                except httpx.ConnectError:
                    return False
            return True

        await wait_until(listens, "HAProxy listens")
    return HAProxy(process, port)


@pytest.fixture
async def gateway_process(start: StartProcess) -> Process:
    process = start("serve", "--port", "0")
    await process.url()
    return process


@pytest.fixture
async def gateway_port(gateway_process: Process) -> int:
    return int((await gateway_process.url()).rpartition(":")[2])


@pytest.fixture
async def haproxy(run: StartProcess, gateway_port: int, tmp_path: Path) -> HAProxy:
    return await start_haproxy(run, tmp_path, f"127.0.0.1:{gateway_port}")


async def test_request_ids_are_equal(haproxy: HAProxy, gateway_port: int) -> None:
    """HAProxy's log has the id of the response. HAProxy and the gateway keep the same ids and replace the same ids."""
    logged, kept, kept_without_proxy = {}, set(), set()
    for number, (name, headers) in enumerate((VALID_IDS | INVALID_IDS).items()):
        target = f"/v1/places?q={number}"
        response = await exchange(haproxy.port, target, headers)
        direct = await exchange(gateway_port, target, headers)
        if response.ids != [await haproxy.logged_id(target)]:
            logged[name] = await haproxy.logged_id(target), response.ids
        kept |= {name} if response.kept_id else set()
        kept_without_proxy |= {name} if direct.kept_id else set()
        assert (response.status, direct.status, len(direct.ids)) == (200, 200, 1)

    assert logged == {}
    assert kept == kept_without_proxy == set(VALID_IDS)
    rejected = await exchange(haproxy.port, "/v1/method", b"X-Request-ID: mine\r\n", method="UNKNOWN")  # by the parser
    assert (rejected.status, rejected.ids, await haproxy.logged_id("/v1/method")) == (400, ["mine"], "mine")


async def test_request_id_without_a_replica(run: StartProcess, tmp_path: Path) -> None:
    """HAProxy's own problem has the id of its log, in a header and in the body (tests/api/test_problems.py has the others)."""
    with closing(ports.reserve()) as unused:
        haproxy = await start_haproxy(run, tmp_path, f"127.0.0.1:{unused.getsockname()[1]}")
        response = await exchange(haproxy.port, "/v1/replica", b"X-Request-ID: two words\r\n")

    assert (response.status, response.ids) == (503, [await haproxy.logged_id("/v1/replica")])
    problem = json.loads(response.body)
    assert (problem["type"], problem["request_id"]) == ("/problems/no-replica", response.ids[0])


async def test_public_paths(haproxy: HAProxy, gateway_port: int) -> None:
    """HAProxy passes on the paths for the public. It responds to all others as the gateway does to an unknown path.

    Through HAProxy, `/readyz` has no details.
    """
    async with httpx.AsyncClient() as client:
        statuses = {
            path: (await client.get(f"http://127.0.0.1:{haproxy.port}{path}")).status_code for path in PUBLIC_PATHS
        }
        unknown = await client.get(f"http://127.0.0.1:{gateway_port}/nowhere")
        journal = await client.get(f"http://127.0.0.1:{gateway_port}/lifecycle")
        ready = await client.get(f"http://127.0.0.1:{haproxy.port}/readyz")
        hidden = await client.get(f"http://127.0.0.1:{haproxy.port}/lifecycle")
    others = {target: (await exchange(haproxy.port, target, b"X-Request-ID: mine\r\n")) for target in OTHER_TARGETS}

    assert statuses == dict.fromkeys(PUBLIC_PATHS, 200)
    assert ready.json()["checks"]["database"] == {"status": "ok"}
    assert ready.json().keys() == {"status", "checks"}
    assert journal.status_code == 200  # to this machine
    assert_complete_problem(hidden, 404)
    assert hidden.json() | {"request_id": ""} == unknown.json() | {"request_id": ""}
    assert {target: (each.status, each.ids) for target, each in others.items()} == dict.fromkeys(
        OTHER_TARGETS, (404, ["mine"])
    )


async def test_proxied_write_without_keys(haproxy: HAProxy) -> None:
    """A gateway without keys rejects a write that HAProxy has forwarded, although it arrives on loopback."""
    async with httpx.AsyncClient() as client:
        url = f"http://127.0.0.1:{haproxy.port}/v1/places/{ZURICH}/observations"
        response = await client.post(url, json={"temperature_c": 12.5, "condition": "rain"})

    assert_complete_problem(response, 403)
    assert "X-Forwarded-For" in response.json()["detail"]


def test_haproxy_closes_idle_connections_first() -> None:
    """HAProxy's timeouts for idle connections are shorter than the gateway's. Otherwise a write could reach a replica that is
    just closing the connection, and HAProxy does not repeat writes.
    """
    timeouts = re.findall(r"timeout (client|server|http-keep-alive) (\d+)s", CONFIGURATION.read_text())

    assert len(timeouts) == 3
    assert max(int(seconds) for _, seconds in timeouts) < Settings().keep_alive_seconds
