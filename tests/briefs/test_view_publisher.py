"""The view publisher: views share an event, are dropped and counted without RabbitMQ, and are flushed at the end."""

import asyncio

import pytest
from aio_pika.abc import AbstractChannel
from structlog.testing import capture_logs

from gateway.briefs.view_publisher import MAX_PENDING, ViewPublisher
from gateway.devstack.rabbitmq import RabbitMQServer
from gateway.events.channels import CONNECTION_ERRORS, open_channel
from gateway.events.messages import BriefViewed, decode
from gateway.events.topology import EXCHANGE, VIEWS, declare
from gateway.resources.rabbitmq import RabbitMQ
from tests.events.conftest import channel, rabbitmq, vhost
from tests.support.waiting import TIMEOUT, wait_until

__all__ = ["channel", "rabbitmq", "vhost"]


@pytest.fixture
def no_publish_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a healthy broker as much time as it needs, so that no view is dropped on a busy machine."""
    monkeypatch.setattr("gateway.briefs.view_publisher.PUBLISH_TIMEOUT", 60)


async def take_events(rabbitmq: RabbitMQ) -> list[dict[int, int]]:
    """Empty the queue, and return the views of each event in it."""
    channel = await open_channel(rabbitmq.connection, confirms=False)
    queue = await channel.declare_queue(VIEWS.name, passive=True)
    events = []
    while (message := await queue.get(no_ack=True, fail=False, timeout=5)) is not None:
        events.append(decode(message.body, BriefViewed).data.views)
    await channel.close()
    return events


@pytest.mark.usefixtures("no_publish_timeout")
async def test_views_share_an_event(rabbitmq: RabbitMQ) -> None:
    """Many views are published in one event, with a count for each place."""
    publisher = ViewPublisher(rabbitmq.connection)
    async with publisher.open():
        for place_id in (1, 2, 1, 1):
            publisher.record(place_id)

    assert await take_events(rabbitmq) == [{1: 3, 2: 1}]


@pytest.mark.usefixtures("no_publish_timeout")
async def test_published_while_running(rabbitmq: RabbitMQ, channel: AbstractChannel) -> None:
    """Views are published without waiting for the end, again and again."""
    await declare(channel)
    publisher = ViewPublisher(rabbitmq.connection)
    async with publisher.open():
        for events in (1, 2):
            publisher.record(1)

            async def published(expected: int = events) -> bool:
                return not publisher._pending and await queue_length(channel) == expected

            await wait_until(published, "the view is published")


async def queue_length(channel: AbstractChannel) -> int | None:
    return (await channel.declare_queue(VIEWS.name, passive=True)).declaration_result.message_count


async def test_no_event_without_views(rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without views, nothing is published: a call of the missing publisher would raise."""
    publisher = ViewPublisher(rabbitmq.connection)
    monkeypatch.setattr(publisher, "_publisher", None)
    async with publisher.open():
        pass


@pytest.mark.usefixtures("no_publish_timeout")
async def test_last_views_are_flushed(rabbitmq: RabbitMQ) -> None:
    """Views that are recorded while the last event is published are published at the end."""
    publisher = ViewPublisher(rabbitmq.connection)
    publish = publisher._publisher.publish
    publishing = asyncio.Event()

    async def publish_and_record(*arguments: object, timeout: float) -> None:
        publisher._publisher.publish = publish  # type: ignore[method-assign]
        publishing.set()
        await publish(*arguments, timeout=timeout)  # type: ignore[arg-type]
        publisher.record(2)

    publisher._publisher.publish = publish_and_record  # type: ignore[method-assign, assignment]
    async with publisher.open():
        publisher.record(1)
        await asyncio.wait_for(publishing.wait(), TIMEOUT)

    assert await take_events(rabbitmq) == [{1: 1}, {2: 1}]


async def test_each_outage_is_logged(
    rabbitmq: RabbitMQ, channel: AbstractChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each outage is logged once, with its cause, and so is its end."""
    monkeypatch.setattr("gateway.outages.RECOVERY_TIME", 0)
    await declare(channel)
    queue = await channel.declare_queue(VIEWS.name, passive=True)
    publisher = ViewPublisher(rabbitmq.connection)
    monkeypatch.setattr(publisher._publisher, "_ensure", lambda: asyncio.sleep(0))  # otherwise it binds the queue
    with capture_logs() as logs:
        for outage in (1, 2):
            await queue.unbind(EXCHANGE, VIEWS.routing_key)
            for _ in range(2):
                publisher.record(1)
                await publisher._publish()
            await queue.bind(EXCHANGE, VIEWS.routing_key)
            publisher.record(1)
            await publisher._publish()
            assert publisher.dropped == 2 * outage

    assert [(line["event"], line["dropped"]) for line in logs] == [
        ("views dropped", 1),
        ("views are published again", 2),
        ("views dropped", 3),
        ("views are published again", 4),
    ]
    assert "NO_ROUTE" in logs[0]["error"]


@pytest.mark.parametrize("outage", ["SIGSTOP", "SIGKILL"])
async def test_dropped_without_rabbitmq(rabbitmq: RabbitMQ, rabbitmq_server: RabbitMQServer, outage: str) -> None:
    """Without RabbitMQ, views are dropped and counted. They are published again once it has recovered."""
    publisher = ViewPublisher(rabbitmq.connection)
    async with publisher.open():
        if outage == "SIGSTOP":
            rabbitmq_server.suspend()
        else:
            rabbitmq_server.kill()
        try:
            for _ in range(5):
                publisher.record(1)
            await wait_until(lambda: publisher.dropped == 5, "the views are dropped")
            assert await publisher.check() == "5 dropped"
        finally:
            if outage == "SIGSTOP":
                rabbitmq_server.resume()
            else:
                await rabbitmq_server.start()

        async def published() -> bool:
            publisher.record(2)
            return any(set(event) == {2} for event in await take_events_if_connected(rabbitmq))

        await wait_until(published, "views are published again")


async def take_events_if_connected(rabbitmq: RabbitMQ) -> list[dict[int, int]]:
    try:
        return await take_events(rabbitmq)
    except CONNECTION_ERRORS:
        return []  # the connection is being recovered


@pytest.mark.usefixtures("no_publish_timeout")
async def test_pending_views_are_bounded(rabbitmq: RabbitMQ) -> None:
    """At most `MAX_PENDING` views wait in memory. More of them are dropped."""
    publisher = ViewPublisher(rabbitmq.connection)
    for place_id in range(MAX_PENDING + 100):
        publisher.record(1 + place_id % 20_000)
    assert publisher.dropped == 100
    assert len(publisher._pending) == MAX_PENDING
    async with publisher.open():
        pass

    (views,) = await take_events(rabbitmq)
    assert sum(views.values()) == MAX_PENDING


async def test_end_without_rabbitmq(rabbitmq: RabbitMQ, rabbitmq_server: RabbitMQServer) -> None:
    """At the end, views are flushed within a time limit. Views that could not be flushed are counted as dropped."""
    publisher = ViewPublisher(rabbitmq.connection)
    with rabbitmq_server.suspended():
        async with asyncio.timeout(TIMEOUT), publisher.open():  # without a limit, it would wait for the broker
            publisher.record(1)

    assert publisher.dropped == 1
