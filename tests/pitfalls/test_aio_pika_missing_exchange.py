"""aio-pika: asking for an exchange that is not there closes the channel, with all that others do on it."""

from contextlib import suppress

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import ChannelInvalidStateError, ChannelNotFoundEntity

from gateway.devstack.rabbitmq import RabbitMQ
from tests.end_to_end.running import until

QUEUE = "trap of the missing exchange"


async def naive(channel: AbstractChannel) -> None:
    with suppress(ChannelNotFoundEntity):
        await channel.get_exchange("missing")
    await channel.default_exchange.publish(aio_pika.Message(b"hello"), routing_key=QUEUE)


async def cure(connection: AbstractConnection, channel: AbstractChannel) -> None:
    with suppress(ChannelNotFoundEntity):
        async with connection.channel() as asking:
            await asking.get_exchange("missing")
    await channel.default_exchange.publish(aio_pika.Message(b"hello"), routing_key=QUEUE)


async def works(channel: AbstractChannel) -> bool:
    try:
        await channel.default_exchange.publish(aio_pika.Message(b"hello"), routing_key=QUEUE)
    except ChannelInvalidStateError:
        return False
    return True


async def test_what_uses_the_channel_next_finds_it_closed(rabbitmq_server: RabbitMQ) -> None:
    url = rabbitmq_server.url
    async with await aio_pika.connect(url) as plain, await aio_pika.connect_robust(url) as robust:
        closed_for_good, closed = await plain.channel(), await robust.channel()
        for channel in (closed_for_good, closed):
            with pytest.raises(ChannelInvalidStateError):  # else a channel survives a 404 by now
                await naive(channel)

        await until(lambda: works(closed), "a robust connection has restored its channel")
        assert not await works(closed_for_good)


async def test_a_channel_of_its_own_for_the_question_spares_the_others(rabbitmq_server: RabbitMQ) -> None:
    async with await aio_pika.connect_robust(rabbitmq_server.url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(QUEUE, exclusive=True)

        await cure(connection, channel)

        assert (await queue.get(timeout=2, no_ack=True)).body == b"hello"
