"""Views: many in one event, dropped and counted rather than waited for, and flushed in the end."""

import asyncio
from collections import Counter

import pytest
from aio_pika.abc import AbstractChannel

from gateway.briefs.view_publisher import MAX_PENDING, ViewPublisher
from gateway.devstack.rabbitmq import RabbitMQServer
from gateway.events.channels import CONNECTION_ERRORS, open_channel
from gateway.events.messages import BriefViewed, decode
from gateway.events.topology import VIEWS, declare
from gateway.resources.rabbitmq import RabbitMQ
from tests.events.conftest import channel, rabbitmq, vhost
from tests.support.waiting import TIMEOUT, wait_until

__all__ = ["channel", "rabbitmq", "vhost"]


@pytest.fixture
def no_publish_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A healthy broker has as much time as it needs, so that no view is dropped on a busy machine."""
    monkeypatch.setattr("gateway.briefs.view_publisher.PUBLISH_TIMEOUT", 60)


async def arrived(rabbitmq: RabbitMQ) -> list[dict[int, int]]:
    """What the events in the queue say; it is empty then."""
    channel = await open_channel(rabbitmq.connection, confirms=False)
    queue = await channel.declare_queue(VIEWS.name, passive=True)
    said = []
    while (message := await queue.get(no_ack=True, fail=False, timeout=5)) is not None:
        said.append(decode(message.body, BriefViewed).data.views)
    await channel.close()
    return said


@pytest.mark.usefixtures("no_publish_timeout")
async def test_many_views_are_one_event(rabbitmq: RabbitMQ) -> None:
    views = ViewPublisher(rabbitmq.connection)
    async with views.open():
        for place_id in (1, 2, 1, 1):
            views.record(place_id)

    assert await arrived(rabbitmq) == [{1: 3, 2: 1}]


@pytest.mark.usefixtures("no_publish_timeout")
async def test_they_are_published_within_a_moment(rabbitmq: RabbitMQ, channel: AbstractChannel) -> None:
    await declare(channel)
    views = ViewPublisher(rabbitmq.connection)
    async with views.open():
        for round_ in (1, 2):
            views.record(1)

            async def all_there(expected: int = round_) -> bool:
                return views._pending == Counter() and await depth(channel) == expected

            await wait_until(all_there, "they are published")


async def depth(channel: AbstractChannel) -> int | None:
    return (await channel.declare_queue(VIEWS.name, passive=True)).declaration_result.message_count


async def test_without_views_nothing_is_published(rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch) -> None:
    views = ViewPublisher(rabbitmq.connection)
    monkeypatch.setattr(views, "_publisher", None)
    async with views.open():
        pass


@pytest.mark.usefixtures("no_publish_timeout")
async def test_what_comes_while_one_is_published_is_flushed_in_the_end(rabbitmq: RabbitMQ) -> None:
    views = ViewPublisher(rabbitmq.connection)
    publish = views._publisher.publish
    publishing = asyncio.Event()

    async def publish_slowly(*arguments: object, timeout: float) -> None:
        views._publisher.publish = publish  # type: ignore[method-assign]
        publishing.set()
        await publish(*arguments, timeout=timeout)  # type: ignore[arg-type]
        views.record(2)

    views._publisher.publish = publish_slowly  # type: ignore[method-assign, assignment]
    async with views.open():
        views.record(1)
        await asyncio.wait_for(publishing.wait(), TIMEOUT)

    assert await arrived(rabbitmq) == [{1: 1}, {2: 1}]


@pytest.mark.parametrize("how", ["SIGSTOP", "SIGKILL"])
async def test_without_rabbitmq_they_are_dropped_and_counted_and_adding_takes_no_time(
    rabbitmq: RabbitMQ, rabbitmq_server: RabbitMQServer, how: str
) -> None:
    views = ViewPublisher(rabbitmq.connection)
    async with views.open():
        if how == "SIGSTOP":
            rabbitmq_server.suspend()
        else:
            rabbitmq_server.kill()
        try:
            for _ in range(5):
                views.record(1)

            async def are_dropped() -> bool:
                return views.dropped == 5

            await wait_until(are_dropped, "they are dropped")
            assert await views.check() == "5 dropped"
        finally:
            if how == "SIGSTOP":
                rabbitmq_server.resume()
            else:
                await rabbitmq_server.start()

        async def is_there() -> bool:
            views.record(2)
            return {2} in [set(said) for said in await arrived_or_nothing(rabbitmq)]

        await wait_until(is_there, "they are published again")


async def arrived_or_nothing(rabbitmq: RabbitMQ) -> list[dict[int, int]]:
    try:
        return await arrived(rabbitmq)
    except CONNECTION_ERRORS:
        return []  # it is coming back just now


@pytest.mark.usefixtures("no_publish_timeout")
async def test_more_than_can_wait_are_dropped_and_memory_is_bounded(rabbitmq: RabbitMQ) -> None:
    views = ViewPublisher(rabbitmq.connection)
    for place_id in range(MAX_PENDING + 100):
        views.record(1 + place_id % 20_000)
    assert (views.dropped, len(views._pending)) == (100, MAX_PENDING)
    async with views.open():
        pass

    (said,) = await arrived(rabbitmq)
    assert sum(said.values()) == MAX_PENDING


async def test_the_end_is_in_time_and_what_could_not_be_flushed_is_counted(
    rabbitmq: RabbitMQ, rabbitmq_server: RabbitMQServer
) -> None:
    views = ViewPublisher(rabbitmq.connection)
    with rabbitmq_server.suspended():
        async with asyncio.timeout(TIMEOUT), views.open():  # without a bound it would wait until the broker is back
            views.record(1)

    assert views.dropped == 1
