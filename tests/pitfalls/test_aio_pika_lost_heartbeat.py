"""aio-pika: when the heartbeat is lost, a pending publish raises `CancelledError`, although no task was cancelled."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import aio_pika
import aiormq
import pytest
from aio_pika.abc import AbstractExchange

from gateway.devstack.rabbitmq import RabbitMQServer


async def broken(exchange: AbstractExchange) -> str:
    try:
        await exchange.publish(aio_pika.Message(b"hello"), routing_key="greetings")
    except Exception as error:
        return f"not sent: {error!r}"
    return "sent"


async def fixed(exchange: AbstractExchange) -> str:
    task = asyncio.current_task()
    try:
        await exchange.publish(aio_pika.Message(b"hello"), routing_key="greetings")
    except asyncio.CancelledError as error:
        if task is None or task.cancelling():
            raise  # a real cancellation
        return f"not sent: {error!r}"
    except Exception as error:
        return f"not sent: {error!r}"
    return "sent"


@pytest.fixture
async def exchange(vhost: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AbstractExchange]:
    """An exchange on a connection that is lost after one or two silent seconds; by default that takes three minutes."""
    assert aiormq.Connection.HEARTBEAT_GRACE_MULTIPLIER == 3
    monkeypatch.setattr(aiormq.Connection, "HEARTBEAT_GRACE_MULTIPLIER", 0.5)
    async with await aio_pika.connect_robust(vhost, heartbeat=1, reconnect_interval=0.1) as connection:
        yield (await connection.channel()).default_exchange


async def publish_to_suspended_server(
    publish: Callable[[AbstractExchange], Awaitable[str]], exchange: AbstractExchange, server: RabbitMQServer
) -> "asyncio.Task[str]":
    """Publish while the server is suspended. Return the task once it is done."""
    with server.suspended():
        publishing = asyncio.ensure_future(publish(exchange))
        await asyncio.wait({publishing}, timeout=10)
    assert isinstance(publishing, asyncio.Task)
    assert publishing.done()
    return publishing


async def test_lost_heartbeat_cancels_publish(exchange: AbstractExchange, rabbitmq_server: RabbitMQServer) -> None:
    """The task ends as cancelled, although `cancel()` was not called, after the multiple of the heartbeat."""
    started = time.monotonic()
    publishing = await publish_to_suspended_server(broken, exchange, rabbitmq_server)

    assert time.monotonic() - started < 5, "aiormq no longer uses that multiple of the heartbeat"
    assert publishing.cancelled(), "fixed upstream: aio-pika raises an error of its own"
    assert publishing.cancelling() == 0


async def test_cancelling_count_reveals_lost_heartbeat(
    exchange: AbstractExchange, rabbitmq_server: RabbitMQServer
) -> None:
    """A task whose `cancelling()` is 0 was not cancelled: the publish is reported as failed."""
    publishing = await publish_to_suspended_server(fixed, exchange, rabbitmq_server)

    assert not publishing.cancelled()
    assert publishing.result().startswith("not sent")


async def test_real_cancellation_still_propagates(exchange: AbstractExchange, rabbitmq_server: RabbitMQServer) -> None:
    """The fixed code does not swallow the cancellation of its own task."""
    with rabbitmq_server.suspended():
        publishing = asyncio.create_task(fixed(exchange))
        await asyncio.sleep(0)
        publishing.cancel()
        await asyncio.wait({publishing}, timeout=5)

    assert publishing.cancelled()
