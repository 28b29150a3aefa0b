"""aio-pika: a timeout around the close of a channel costs the whole connection, if the response is only late."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aio_pika.abc import AbstractChannel

from gateway.resources.broker_transport import BrokerTransports
from gateway.resources.rabbitmq import BrokerConnection
from tests.support.waiting import wait_until


async def broken(channel: AbstractChannel) -> None:
    async with asyncio.timeout(0.2):
        await channel.close()


async def fixed(channel: AbstractChannel, closing: set[asyncio.Future[None]]) -> None:
    close = asyncio.ensure_future(channel.close())
    closing.add(close)  # keeps the task until it is done
    close.add_done_callback(closing.discard)
    await asyncio.wait([close], timeout=0.2)


@pytest.fixture
def transports() -> BrokerTransports:
    return BrokerTransports()


@pytest.fixture
async def connection(vhost: str, transports: BrokerTransports) -> AsyncIterator[BrokerConnection]:
    async with BrokerConnection(vhost, transports, name="pitfall", heartbeat=15) as connection:
        await connection.connect()
        yield connection


async def test_late_response(connection: BrokerConnection, transports: BrokerTransports) -> None:
    """The broken close sends a second request, to which the broker responds with a close of the connection."""
    (transport,) = transports._transports
    assert isinstance(transport, asyncio.Transport)
    channel, other = await connection.channel(), await connection.channel()
    closing: set[asyncio.Future[None]] = set()
    transport.pause_reading()
    await fixed(channel, closing)
    transport.resume_reading()
    await wait_until(lambda: not closing, "the channel is closed")
    transport.pause_reading()
    with pytest.raises(TimeoutError):  # otherwise fixed upstream: the close ends without the response
        await broken(other)
    assert transports.last_error is None
    transport.resume_reading()

    await wait_until(lambda: transports.last_error is not None, "the broker closes the connection")
    assert str(transports.last_error) == "CHANNEL_ERROR - expected 'channel.open'"
