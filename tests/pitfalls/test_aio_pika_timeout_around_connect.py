"""aio-pika: a timeout around `connect_robust` ends the wait, and neither the task that connects nor its socket."""

import asyncio

import aio_pika
import pytest
from aio_pika import RobustConnection
from aio_pika.connection import make_url

from faultlab import ResourceSnapshot
from gateway.devstack.rabbitmq import RabbitMQ
from tests.end_to_end.running import until
from tests.pitfalls.orphans import orphans

MENDED = "aio-pika no longer leaks here: the workaround in gateway/resources/rabbitmq.py may go"


async def naive(url: str) -> aio_pika.abc.AbstractRobustConnection:
    async with asyncio.timeout(0.2):
        return await aio_pika.connect_robust(url)


async def cure(url: str) -> RobustConnection:
    connection = RobustConnection(make_url(url))
    try:
        async with asyncio.timeout(0.2):
            await connection.connect()
    except BaseException:
        await connection.close()
        raise
    return connection


@pytest.mark.usefixtures("no_collector")
async def test_given_up_on_it_connects_all_the_same(rabbitmq_server: RabbitMQ) -> None:
    with rabbitmq_server.suspended(), pytest.raises(TimeoutError):
        await naive(f"{rabbitmq_server.url}?name=orphan")

    async def the_broker_has_it() -> bool:
        return "orphan" in await rabbitmq_server.clients()

    await until(the_broker_has_it, MENDED)
    for _, lost in orphans():
        await lost.close()


@pytest.mark.usefixtures("no_collector")
async def test_its_task_cannot_even_be_cancelled(silent_port: int) -> None:
    with pytest.raises(TimeoutError):
        await naive(f"amqp://guest:guest@127.0.0.1:{silent_port}/")

    left = list(orphans())
    assert len(left) == 1, MENDED
    task, lost = left[0]
    task.cancel()
    await asyncio.wait({task}, timeout=0.3)
    assert not task.done(), MENDED
    await lost.close()


async def test_a_connection_that_is_made_first_can_be_closed(rabbitmq_server: RabbitMQ) -> None:
    before = ResourceSnapshot.take()
    with rabbitmq_server.suspended():
        with pytest.raises(TimeoutError):
            await cure(f"{rabbitmq_server.url}?name=closed")

        async def nothing_is_held() -> bool:
            return not ResourceSnapshot.take().leaked_since(before)

        await until(nothing_is_held, "no task and no socket is left")
    assert "closed" not in await rabbitmq_server.clients()
