"""aio-pika: a lookup of a missing exchange closes the channel for all its users."""

from contextlib import suppress

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import ChannelInvalidStateError, ChannelNotFoundEntity

from tests.support.waiting import wait_until

QUEUE = "pitfall-missing-exchange"


async def broken(channel: AbstractChannel) -> None:
    with suppress(ChannelNotFoundEntity):
        await channel.get_exchange("missing")
    await channel.default_exchange.publish(aio_pika.Message(b"hello"), routing_key=QUEUE)


async def fixed(connection: AbstractConnection, channel: AbstractChannel) -> None:
    with suppress(ChannelNotFoundEntity):
        async with connection.channel() as lookup_channel:
            await lookup_channel.get_exchange("missing")
    await channel.default_exchange.publish(aio_pika.Message(b"hello"), routing_key=QUEUE)


async def can_publish(channel: AbstractChannel) -> bool:
    try:
        await channel.default_exchange.publish(aio_pika.Message(b"hello"), routing_key=QUEUE)
    except ChannelInvalidStateError:
        return False
    return True


async def test_missing_exchange_closes_channel(vhost: str) -> None:
    """The next publish fails. A robust connection restores the channel after a moment, a plain one never does."""
    async with await aio_pika.connect(vhost) as plain, await aio_pika.connect_robust(vhost) as robust:
        plain_channel, robust_channel = await plain.channel(), await robust.channel()
        for channel in (plain_channel, robust_channel):
            with pytest.raises(ChannelInvalidStateError):  # otherwise fixed upstream: a channel survives a 404
                await broken(channel)

        await wait_until(lambda: can_publish(robust_channel), "the robust connection restores its channel")
        assert not await can_publish(plain_channel)


async def test_separate_channel_protects_others(vhost: str) -> None:
    """A lookup on a channel of its own leaves the publishing channel open."""
    async with await aio_pika.connect_robust(vhost) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(QUEUE, exclusive=True)

        await fixed(connection, channel)

        assert (await queue.get(timeout=2, no_ack=True)).body == b"hello"
