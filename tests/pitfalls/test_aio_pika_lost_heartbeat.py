"""aio-pika: when the heartbeat is lost, a publish in flight raises `CancelledError` in a task that nobody cancelled."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import aio_pika
import aiormq
import pytest
from aio_pika.abc import AbstractExchange

from gateway.devstack.rabbitmq import RabbitMQ


async def naive(exchange: AbstractExchange) -> str:
    try:
        await exchange.publish(aio_pika.Message(b"hello"), routing_key="somebody")
    except Exception as error:
        return f"not sent: {error!r}"
    return "sent"


async def cure(exchange: AbstractExchange) -> str:
    task = asyncio.current_task()
    try:
        await exchange.publish(aio_pika.Message(b"hello"), routing_key="somebody")
    except asyncio.CancelledError as error:
        if task is None or task.cancelling():
            raise  # somebody did cancel us
        return f"not sent: {error!r}"
    except Exception as error:
        return f"not sent: {error!r}"
    return "sent"


@pytest.fixture
async def exchange(rabbitmq_server: RabbitMQ, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AbstractExchange]:
    """An exchange on a connection that is lost after a second or two of silence; by default it takes three minutes."""
    assert aiormq.Connection.HEARTBEAT_GRACE_MULTIPLIER == 3
    monkeypatch.setattr(aiormq.Connection, "HEARTBEAT_GRACE_MULTIPLIER", 0.5)
    async with await aio_pika.connect_robust(rabbitmq_server.url, heartbeat=1, reconnect_interval=0.1) as connection:
        yield (await connection.channel()).default_exchange


async def published(
    publish: Callable[[AbstractExchange], Awaitable[str]], exchange: AbstractExchange, server: RabbitMQ
) -> "asyncio.Task[str]":
    """Publish to a server that does not answer any more, until that ends."""
    with server.suspended():
        publishing = asyncio.ensure_future(publish(exchange))
        await asyncio.wait({publishing}, timeout=10)
    assert isinstance(publishing, asyncio.Task)
    assert publishing.done()
    return publishing


async def test_it_looks_like_a_cancellation(exchange: AbstractExchange, rabbitmq_server: RabbitMQ) -> None:
    began = time.monotonic()
    publishing = await published(naive, exchange, rabbitmq_server)

    assert time.monotonic() - began < 5, "it is not that multiple of the heartbeat any more"
    assert publishing.cancelled(), "aio-pika raises an error of its own by now"
    assert publishing.cancelling() == 0


async def test_a_task_knows_whether_it_was_cancelled(exchange: AbstractExchange, rabbitmq_server: RabbitMQ) -> None:
    publishing = await published(cure, exchange, rabbitmq_server)

    assert not publishing.cancelled()
    assert publishing.result().startswith("not sent")


async def test_a_true_cancellation_passes(exchange: AbstractExchange, rabbitmq_server: RabbitMQ) -> None:
    with rabbitmq_server.suspended():
        publishing = asyncio.create_task(cure(exchange))
        await asyncio.sleep(0)
        publishing.cancel()
        await asyncio.wait({publishing}, timeout=5)

    assert publishing.cancelled()
