"""aio-pika: a timeout around `connect_robust` ends the wait, but neither the task that connects nor its socket."""

import asyncio

import aio_pika
import pytest
from aio_pika import RobustConnection
from aio_pika.connection import make_url

from faultlab import ResourceSnapshot
from gateway.devstack.rabbitmq import RabbitMQServer
from tests.pitfalls.orphaned_connections import orphaned_connections
from tests.support.waiting import wait_until

FIXED_UPSTREAM = "fixed upstream: aio-pika no longer leaks here; remove the workaround in gateway/resources/rabbitmq.py"


async def broken(url: str) -> aio_pika.abc.AbstractRobustConnection:
    async with asyncio.timeout(0.2):
        return await aio_pika.connect_robust(url)


async def fixed(url: str) -> RobustConnection:
    connection = RobustConnection(make_url(url))
    try:
        async with asyncio.timeout(0.2):
            await connection.connect()
    except BaseException:
        await connection.close()
        raise
    return connection


@pytest.mark.usefixtures("gc_disabled")
async def test_connects_after_timeout(rabbitmq_server: RabbitMQServer) -> None:
    """When the broker continues, it has a connection that the program has given up."""
    with rabbitmq_server.suspended(), pytest.raises(TimeoutError):
        await broken(f"{rabbitmq_server.url}?name=orphan")

    async def broker_lists_connection() -> bool:
        return "orphan" in await rabbitmq_server.clients()

    await wait_until(broker_lists_connection, FIXED_UPSTREAM)
    for _, connection in orphaned_connections():
        await connection.close()


@pytest.mark.usefixtures("gc_disabled")
async def test_orphaned_task_ignores_cancellation(silent_port: int) -> None:
    """A cancellation does not end the task that was left behind."""
    with pytest.raises(TimeoutError):
        await broken(f"amqp://guest:guest@127.0.0.1:{silent_port}/")

    orphans = list(orphaned_connections())
    assert len(orphans) == 1, FIXED_UPSTREAM
    task, connection = orphans[0]
    task.cancel()
    await asyncio.wait({task}, timeout=0.3)
    assert not task.done(), FIXED_UPSTREAM
    await connection.close()


async def test_connection_made_first_can_be_closed(rabbitmq_server: RabbitMQServer) -> None:
    """A program that has the connection object before it connects can close it: no task and no socket is left."""
    before = ResourceSnapshot.take()
    with rabbitmq_server.suspended():
        with pytest.raises(TimeoutError):
            await fixed(f"{rabbitmq_server.url}?name=closed")

        async def nothing_leaked() -> bool:
            return not ResourceSnapshot.take().leaked_since(before)

        await wait_until(nothing_leaked, "no task and no socket is left")
    assert "closed" not in await rabbitmq_server.clients()
