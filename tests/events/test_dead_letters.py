"""The dead letters for an operator: no command loses a message."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from uuid import uuid4

import pytest
from aio_pika import Message
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from gateway.devstack.rabbitmq import RabbitMQServer
from gateway.events.channels import BlockedError, RefusedError
from gateway.events.dead_letters import DeadLetterResult, drop_dead_letters, list_dead_letters, replay_dead_letters
from gateway.events.publisher import Publisher
from gateway.events.topology import DEAD_LETTERS, EXCHANGE, OBSERVATIONS
from gateway.resources.rabbitmq import BrokerConnection, RabbitMQ
from tests.support.waiting import TIMEOUT, wait_until


async def depth(channel: AbstractChannel, queue: str) -> int | None:
    return (await channel.declare_queue(queue, passive=True)).declaration_result.message_count


async def wait_for_depth(channel: AbstractChannel, expected: int) -> None:
    async def is_reached() -> bool:
        return await depth(channel, DEAD_LETTERS) == expected

    await wait_until(is_reached, f"there are {expected} dead letters")


@pytest.fixture
async def ids(rabbitmq: RabbitMQ, channel: AbstractChannel) -> list[str]:
    """The ids of three observations that the worker has rejected."""
    publisher = Publisher(rabbitmq.connection, OBSERVATIONS)
    ids = [uuid4() for _ in range(3)]
    for event_id in ids:
        await publisher.publish(event_id, OBSERVATIONS.routing_key, b'{"poison": 1}', timeout=TIMEOUT)
    queue = await channel.declare_queue(OBSERVATIONS.name, passive=True)
    for _ in ids:
        message = await queue.get(timeout=TIMEOUT)
        assert message is not None
        await message.reject(requeue=False)
    await wait_for_depth(channel, 3)
    return [str(event_id) for event_id in ids]


async def listed(rabbitmq: RabbitMQ) -> list[str]:
    return [letter.id for letter in await list_dead_letters(rabbitmq.connection, with_body=False, limit=100)]


async def test_list_describes_the_rejection(rabbitmq: RabbitMQ, ids: list[str]) -> None:
    """The list has the queue, the reason and the type of each message, and no body unless it is requested."""
    first, second = await list_dead_letters(rabbitmq.connection, with_body=False, limit=2)

    assert [first.id, second.id] == ids[:2]
    assert (first.type, first.queue, first.reason) == (OBSERVATIONS.routing_key, OBSERVATIONS.name, "rejected")
    assert (first.size, first.body) == (13, None)
    assert first.age_s is not None
    assert 0 <= first.age_s < 600
    (with_body,) = await list_dead_letters(rabbitmq.connection, with_body=True, limit=1)
    assert with_body.body == '{"poison": 1}'


async def test_list_keeps_the_messages(rabbitmq: RabbitMQ, channel: AbstractChannel, ids: list[str]) -> None:
    """The messages are in the queue after the list, too."""
    assert await listed(rabbitmq) == ids
    await wait_for_depth(channel, 3)
    assert set(await listed(rabbitmq)) == set(ids)


COMMANDS: dict[str, Callable[[BrokerConnection], Awaitable[object]]] = {
    "list": partial(list_dead_letters, with_body=False, limit=100),
    "replay": partial(replay_dead_letters, ids=["unknown"]),
    "drop": partial(drop_dead_letters, ids=["unknown"]),
}


@pytest.mark.parametrize("command", COMMANDS)
async def test_repeated_commands_lose_no_message(
    rabbitmq: RabbitMQ, channel: AbstractChannel, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue with a delivery limit, the default of RabbitMQ 4, loses no message however often a command reads it."""
    monkeypatch.setattr("gateway.events.dead_letters.MAX_RETURNS", 2)
    arguments: dict[str, Any] = {"x-queue-type": "quorum", "x-delivery-limit": 3}
    queue = await channel.declare_queue(DEAD_LETTERS, durable=True, arguments=arguments)
    await queue.bind(await channel.declare_exchange(DEAD_LETTERS, "fanout", durable=True))
    await channel.declare_exchange(EXCHANGE, "topic", durable=True)
    await channel.default_exchange.publish(Message(b"{}", message_id="one", type="a.type"), DEAD_LETTERS)
    for _ in range(10):
        await COMMANDS[command](rabbitmq.connection)
        await wait_for_depth(channel, 1)
    (letter,) = await list_dead_letters(rabbitmq.connection, with_body=False, limit=1)
    assert (letter.id, letter.type) == ("one", "a.type")


async def test_replay_of_some(rabbitmq: RabbitMQ, channel: AbstractChannel, ids: list[str]) -> None:
    """A message that is replayed is in its queue again, with its id and type. The others stay dead letters."""
    assert await replay_dead_letters(rabbitmq.connection, ["unknown", ids[1]]) == DeadLetterResult([ids[1]], [])

    message = await (await channel.declare_queue(OBSERVATIONS.name, passive=True)).get(timeout=TIMEOUT)
    assert message is not None
    assert (message.message_id, message.type, message.body) == (ids[1], OBSERVATIONS.routing_key, b'{"poison": 1}')
    await wait_for_depth(channel, 2)
    assert set(await listed(rabbitmq)) == {ids[0], ids[2]}


async def test_replay_that_no_queue_takes(rabbitmq: RabbitMQ, channel: AbstractChannel, ids: list[str]) -> None:
    """Messages that no queue takes stay dead letters."""
    await (await channel.declare_queue(OBSERVATIONS.name, passive=True)).unbind(EXCHANGE, OBSERVATIONS.routing_key)

    assert await replay_dead_letters(rabbitmq.connection, None) == DeadLetterResult([], ids)
    await wait_for_depth(channel, 3)


async def test_replay_of_poison_ends(rabbitmq: RabbitMQ, channel: AbstractChannel, ids: list[str]) -> None:
    """Messages that are rejected again meanwhile are not replayed a second time."""
    queue = await channel.declare_queue(OBSERVATIONS.name, passive=True)

    async def reject(message: AbstractIncomingMessage) -> None:
        await message.reject(requeue=False)

    await queue.consume(reject)
    async with asyncio.timeout(TIMEOUT):
        assert await replay_dead_letters(rabbitmq.connection, None) == DeadLetterResult(ids, [])

    await wait_for_depth(channel, 3)


async def test_replay_during_an_alarm(
    rabbitmq: RabbitMQ, rabbitmq_server: RabbitMQServer, channel: AbstractChannel, ids: list[str]
) -> None:
    """An alarm is reported with its reason. No message is published, also not after the alarm."""
    async with rabbitmq_server.memory_alarm():
        with pytest.raises(BlockedError, match="low on memory"):
            await replay_dead_letters(rabbitmq.connection, ids)

    await wait_for_depth(channel, 3)
    assert await depth(channel, OBSERVATIONS.name) == 0


async def test_replay_that_fails_later(
    rabbitmq: RabbitMQ, rabbitmq_server: RabbitMQServer, channel: AbstractChannel, ids: list[str]
) -> None:
    """The error of one message has the number of those that were replayed before. That message stays a dead letter."""
    await channel.default_exchange.publish(Message(b"x" * 100), DEAD_LETTERS)
    async with rabbitmq_server.max_message_size(99):
        with pytest.raises(RefusedError, match="larger than configured max size 99") as caught:
            await replay_dead_letters(rabbitmq.connection, None)

    assert caught.value.__notes__ == ["3 replayed before the error"]
    await wait_for_depth(channel, 1)
    assert await depth(channel, OBSERVATIONS.name) == len(ids)


async def test_missing_queue(rabbitmq: RabbitMQ) -> None:
    """A missing queue is reported in the words of the broker, with advice."""
    with pytest.raises(RefusedError, match=r"no queue 'gateway.dead-letters' .* see docs/events.md"):
        await drop_dead_letters(rabbitmq.connection, None)


async def test_drop(rabbitmq: RabbitMQ, channel: AbstractChannel, ids: list[str]) -> None:
    """Messages are removed, some or all."""
    assert await drop_dead_letters(rabbitmq.connection, ids[:1]) == DeadLetterResult(ids[:1], [])
    await wait_for_depth(channel, 2)
    result = await drop_dead_letters(rabbitmq.connection, None)
    assert set(result.done) == set(ids[1:])
    await wait_for_depth(channel, 0)
