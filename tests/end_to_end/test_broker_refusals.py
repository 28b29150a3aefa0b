"""Refusals of RabbitMQ, as the processes report them: exit status, `/readyz` and the heartbeat file."""

import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import aio_pika
import httpx
import pytest
from aio_pika.abc import AbstractChannel

from faultlab.wire import Proxy
from gateway.devstack.stack import Devstack
from gateway.events.topology import OBSERVATIONS, VIEWS, Queue, declare
from gateway.process.exit_status import ExitStatus
from gateway.worker import HEARTBEAT_INTERVAL
from tests.end_to_end.conftest import StartProcess
from tests.end_to_end.harness import ZURICH
from tests.events.conftest import replace_queue, vhost
from tests.support.waiting import wait_until

__all__ = ["vhost"]

RAIN = {"temperature_c": 12.5, "condition": "rain"}
NOTHING = "^$"


@pytest.fixture
def environment(environment: dict[str, str], vhost: str) -> dict[str, str]:
    """The variables, with a virtual host of the test."""
    return environment | {"GATEWAY_RABBITMQ__URL": vhost}


@pytest.fixture
async def broker(vhost: str) -> AsyncIterator[AbstractChannel]:
    """A channel of the test, with all exchanges and queues declared."""
    async with await aio_pika.connect(vhost) as connection:
        channel = await connection.channel()
        await declare(channel)
        yield channel


@pytest.mark.parametrize(
    ("queue", "command"),
    [(OBSERVATIONS, ("check",)), (VIEWS, ("serve", "--port", "0")), (OBSERVATIONS, ("worker",))],
    ids=["check", "serve", "worker"],
)
async def test_start_with_other_arguments(
    start: StartProcess, broker: AbstractChannel, command: tuple[str, ...], queue: Queue
) -> None:
    """A queue with other arguments fails each command at once; its last line has the broker's text and the advice."""
    await replace_queue(broker, queue.name)
    process = start(*command)

    assert await process.exit_status() == ExitStatus.START_FAILED
    lines = [line for line in process.output.splitlines() if "PRECONDITION_FAILED" in line]
    assert queue.name in lines[-1]
    assert "delete it" in lines[-1]


async def test_views_redeclared_while_running(start: StartProcess, broker: AbstractChannel, tmp_path: Path) -> None:
    """A queue of views with other arguments degrades readiness and ages the heartbeat file; observations are counted."""
    heartbeat = tmp_path / "heartbeat"
    worker = start("worker", "--alive", str(heartbeat))
    url = await start("serve", "--port", "0").url()
    await worker.wait_for_output('"event": "working"')
    async with httpx.AsyncClient(base_url=url) as client:

        async def views_check_has(text: str) -> bool:
            return text in (await client.get("/readyz")).json()["checks"]["views"]["remark"]

        async def count() -> int:
            return int((await client.get(f"/v1/places/{ZURICH}")).json()["observation_count"])

        await wait_until(lambda: views_check_has("0 dropped"), "the check of the views succeeds")
        await replace_queue(broker, VIEWS.name)
        await wait_until(lambda: views_check_has("PRECONDITION_FAILED"), "the check of the views fails")
        response = await client.get("/readyz")
        assert (response.status_code, response.json()["status"]) == (200, "degraded")
        assert response.json()["checks"]["relay"]["status"] == "ok"
        await wait_until(
            lambda: time.time() - heartbeat.stat().st_mtime > 2 * HEARTBEAT_INTERVAL, "the heartbeat file gets old"
        )

        before = await count()
        assert (await client.post(f"/v1/places/{ZURICH}/observations", json=RAIN)).status_code == 201

        async def is_counted() -> bool:
            return await count() == before + 1

        await wait_until(is_counted, "the observation is counted")

        await broker.queue_delete(VIEWS.name)
        await wait_until(
            lambda: time.time() - heartbeat.stat().st_mtime < HEARTBEAT_INTERVAL, "the heartbeat file is touched again"
        )


async def test_heartbeat_during_an_outage(start: StartProcess, servers: Devstack, vhost: str, tmp_path: Path) -> None:
    """While RabbitMQ is unavailable, the heartbeat file is touched: a restart of all workers would not help."""
    heartbeat = tmp_path / "heartbeat"
    port = servers.rabbitmq.port
    async with Proxy("rabbitmq", "amqp", "127.0.0.1", port) as proxy:
        url = vhost.replace(f":{port}/", f":{proxy.port}/")
        worker = start("worker", "--alive", str(heartbeat), GATEWAY_RABBITMQ__URL=url)
        await worker.wait_for_output('"event": "working"')
    await worker.wait_for_output("consumer interrupted")
    interrupted_at = time.time()

    await wait_until(lambda: heartbeat.stat().st_mtime > interrupted_at, "the heartbeat file is touched")


async def test_minimal_rights(start: StartProcess, broker: AbstractChannel, servers: Devstack, vhost: str) -> None:
    """The gateway and the worker need only the rights in docs/events.md, if the topology exists."""
    del broker  # it has declared everything
    name = urlsplit(vhost).path.removeprefix("/")
    gateway, consumer = (f"{user}-{secrets.token_hex(4)}" for user in ("gateway", "worker"))
    gateway_url = await servers.rabbitmq.add_user(
        gateway, name, configure=NOTHING, write=r"^gateway\.events$", read=NOTHING
    )
    worker_url = await servers.rabbitmq.add_user(
        consumer, name, configure=NOTHING, write=NOTHING, read=r"^gateway\.(observations|brief-views)$"
    )
    worker = start("worker", GATEWAY_RABBITMQ__URL=worker_url)
    url = await start("serve", "--port", "0", GATEWAY_RABBITMQ__URL=gateway_url).url()
    await worker.wait_for_output('"event": "working"')
    async with httpx.AsyncClient(base_url=url) as client:

        async def count() -> int:
            return int((await client.get(f"/v1/places/{ZURICH}")).json()["observation_count"])

        before = await count()
        assert (await client.post(f"/v1/places/{ZURICH}/observations", json=RAIN)).status_code == 201

        async def is_counted() -> bool:
            return await count() == before + 1

        await wait_until(is_counted, "the observation is counted")
        checks = (await client.get("/readyz")).json()["checks"]
        assert {name: checks[name]["status"] for name in ("rabbitmq", "relay", "views")} == dict.fromkeys(
            ("rabbitmq", "relay", "views"), "ok"
        )
    for user in (gateway, consumer):
        await servers.rabbitmq.delete_user(user)
