"""The processes print no secret, and send none to clients or upstream."""

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
from tests.end_to_end.conftest import StartProcess
from tests.end_to_end.harness import ZURICH
from tests.support.waiting import TIMEOUT, wait_until

API_KEY = "a-secret-api-key"
WRONG_API_KEY = "a-wrong-api-key"
OBSERVATIONS = f"/v1/places/{ZURICH}/observations"
PATHS = (f"/v1/places/{ZURICH}/brief", "/v1/places?q=x", "/readyz", "/lifecycle", "/openapi.json", "/nowhere")


class Upstream:
    """A weather upstream that records every byte it receives and responds with an error."""

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
    """The name of a virtual host for one test, which may delete it."""
    name = f"secrets-{token_hex(4)}"
    await servers.rabbitmq.add_vhost(name)
    yield name
    with contextlib.suppress(DevstackError):  # the test has deleted it
        await servers.rabbitmq.delete_vhost(name)


@contextlib.asynccontextmanager
async def broken_observations_table(servers: Devstack) -> AsyncIterator[None]:
    """Add a constraint that divides by zero during the block: a valid observation fails with an internal error."""
    async with servers.postgresql.superuser("gateway") as connection:
        division = "1 / (temperature_c - temperature_c)"
        await connection.execute(f"ALTER TABLE observations ADD CONSTRAINT broken CHECK ({division} > 0) NOT VALID")
        try:
            yield
        finally:
            await connection.execute("ALTER TABLE observations DROP CONSTRAINT broken")


async def send_all_requests(client: httpx.AsyncClient) -> list[httpx.Response]:
    """Report valid and invalid observations with both API keys, and request every path."""
    responses: list[httpx.Response] = []
    for key in (WRONG_API_KEY, API_KEY):
        headers = {"Authorization": f"Bearer {key}", "Idempotency-Key": key}
        bodies: list[dict[str, object]] = [{"temperature_c": 1, "condition": "fog"}, {"condition": key}]
        responses += [await client.post(OBSERVATIONS, json=body, headers=headers) for body in bodies]
    authorized = {"Authorization": f"Bearer {API_KEY}"}
    return responses + [await client.get(path, headers=authorized) for path in PATHS]


async def test_secrets_are_neither_printed_nor_sent(
    start: StartProcess, servers: Devstack, upstream: Upstream, vhost: str
) -> None:
    """No output, response or upstream request has an API key or password.

    This holds in normal operation, after an internal error, without the servers, and until the processes exit.
    """
    secret_settings = {
        "GATEWAY_API_KEYS": f'["alice:{API_KEY}"]',
        "GATEWAY_RABBITMQ__URL": servers.rabbitmq.url_of(vhost),
    }
    gateway = start("serve", "--port", "0", "--debug", GATEWAY_HTTP__WEATHER_URL=upstream.url, **secret_settings)
    worker = start("worker", "--debug", **secret_settings)
    await worker.wait_for_output('"event": "working"')
    responses: list[httpx.Response] = []

    async with httpx.AsyncClient(base_url=await gateway.url(), trust_env=False, timeout=TIMEOUT) as client:

        async def rabbitmq_fails() -> bool:
            responses.append(await client.get("/readyz"))
            return bool(responses[-1].json()["checks"]["rabbitmq"]["status"] == "failed")

        responses += await send_all_requests(client)
        async with broken_observations_table(servers):
            responses += await send_all_requests(client)
        async with servers.postgresql.killed(), servers.redis.killed():
            responses += await send_all_requests(client)
        await servers.rabbitmq.delete_vhost(vhost)
        await wait_until(rabbitmq_fails, "the health check of RabbitMQ fails")
        responses += await send_all_requests(client)
    for process in (gateway, worker):
        process.send_signal(SIGTERM)
        assert await process.exit_status() == 0

    printed = gateway.output + worker.output
    sent = "".join(f"{response.headers}{response.text}" for response in responses) + upstream.received.decode()
    urls = (servers.postgresql.url, servers.redis.url, servers.rabbitmq.url)
    for secret in (API_KEY, *(urlsplit(url).password or url for url in urls)):
        assert secret not in printed
        assert secret not in sent
    assert WRONG_API_KEY not in printed
    # Each kind of response, the upstream request and the log of the internal error were really checked.
    assert {200, 201, 401, 404, 422, 500, 503} <= {response.status_code for response in responses}
    assert b"/v1/forecast" in upstream.received
    assert "request failed" in printed
