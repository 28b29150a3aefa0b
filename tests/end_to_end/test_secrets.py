"""No secret leaves the process but to the server that it is for: neither in what it prints nor in what it sends."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from secrets import token_hex
from signal import SIGTERM
from urllib.parse import urlsplit

import httpx
import pytest

from gateway.devstack.server import DevstackError
from gateway.devstack.stack import Devstack
from tests.end_to_end.conftest import Start
from tests.end_to_end.harness import ZURICH
from tests.support.waiting import TIMEOUT, wait_until

KEY = "the-key-that-nobody-may-see"
PATHS = (f"/v1/places/{ZURICH}/brief", "/v1/places?q=x", "/readyz", "/lifecycle", "/openapi.json", "/nowhere")
WRONG = "a-wrong-key-of-somebody-else"


class Upstream:
    """Listens for weather requests, keeps every byte that it is sent, and answers what is no weather."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                self.received += data
                writer.write(b"HTTP/1.1 500 Broken\r\nContent-Length: 6\r\n\r\nbroken")
        writer.close()


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    upstream = Upstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield upstream
    server.close()


@pytest.fixture
async def vhost(servers: Devstack) -> AsyncIterator[str]:
    """The name of a virtual host of this test's own, which it may delete."""
    name = f"secrets-{token_hex(4)}"
    await servers.rabbitmq.add_vhost(name)
    yield name
    with contextlib.suppress(DevstackError):  # there is none any more
        await servers.rabbitmq.delete_vhost(name)


@contextlib.asynccontextmanager
async def without_observations(servers: Devstack) -> AsyncIterator[None]:
    """Within the block a table is missing, and whoever needs it makes a mistake."""
    async with servers.postgresql.superuser("gateway") as connection:
        await connection.execute("ALTER TABLE observations RENAME TO missing")
        try:
            yield
        finally:
            await connection.execute("ALTER TABLE missing RENAME TO observations")


async def test_nothing_that_the_process_prints_or_sends_has_a_secret(
    start: Start, servers: Devstack, upstream: Upstream, vhost: str
) -> None:
    """When all is well, after a mistake of ours, without the servers, and until it has ended."""
    secret_settings = {"GATEWAY_API_KEYS": f'["{KEY}"]', "GATEWAY_RABBITMQ__URL": servers.rabbitmq.url_of(vhost)}
    gateway = start("serve", "--port", "0", "--debug", GATEWAY_HTTP__WEATHER_URL=upstream.url, **secret_settings)
    worker = start("worker", "--debug", **secret_settings)
    await worker.said('"event": "working"')
    answers = []
    report = {"temperature_c": 1, "condition": "fog"}
    observations = f"/v1/places/{ZURICH}/observations"
    async with httpx.AsyncClient(base_url=await gateway.url(), trust_env=False, timeout=TIMEOUT) as client:

        async def ask_for_everything() -> None:
            for key in (WRONG, KEY):
                headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": key}
                answers.append(await client.post(observations, json=report, headers=headers))
                answers.append(await client.post(observations, json={"condition": key}, headers=headers))
            allowed = {"Authorization": f"Bearer {KEY}"}
            answers.extend([await client.get(path, headers=allowed) for path in PATHS])

        async def says_that_rabbitmq_is_away() -> bool:
            answers.append(await client.get("/readyz"))
            return bool(answers[-1].json()["checks"]["rabbitmq"]["status"] == "failed")

        await ask_for_everything()
        async with without_observations(servers):
            await ask_for_everything()
        async with servers.postgresql.killed(), servers.redis.killed():
            await ask_for_everything()
        await servers.rabbitmq.delete_vhost(vhost)
        await wait_until(says_that_rabbitmq_is_away, "the health check says so")
        await ask_for_everything()
    for process in (gateway, worker):
        process.send(SIGTERM)
        assert await process.status() == 0
    statuses = {answer.status_code for answer in answers}
    printed = gateway.output + worker.output
    sent = "".join(f"{answer.headers}{answer.text}" for answer in answers) + upstream.received.decode()

    assert {200, 201, 401, 404, 422, 500, 503} <= statuses
    assert b"/v1/forecast" in upstream.received
    assert "request failed" in printed
    urls = (servers.postgresql.url, servers.redis.url, servers.rabbitmq.url)
    for secret in (KEY, *(urlsplit(url).password or url for url in urls)):
        assert secret not in printed
        assert secret not in sent
    assert WRONG not in printed
