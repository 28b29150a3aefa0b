"""A virtual host for each test, and the connection as the gateway opens it."""

import asyncio
import secrets
from collections.abc import AsyncIterator

import pytest
from aio_pika.abc import AbstractChannel, AbstractQueue
from aiormq.exceptions import ChannelPreconditionFailed

from gateway.devstack.rabbitmq import RabbitMQServer
from gateway.events.channels import open_channel
from gateway.resources.rabbitmq import RabbitMQ, RabbitMQConnection
from gateway.settings import RabbitMQSettings
from tests.support.waiting import TIMEOUT


@pytest.fixture
async def vhost(rabbitmq_server: RabbitMQServer) -> AsyncIterator[str]:
    """The URL of a new virtual host."""
    name = f"test-{secrets.token_hex(4)}"
    yield await rabbitmq_server.add_vhost(name)
    await rabbitmq_server.delete_vhost(name, wait=False)


@pytest.fixture
async def rabbitmq(vhost: str) -> AsyncIterator[RabbitMQ]:
    settings = RabbitMQSettings.model_validate({"url": vhost})
    async with RabbitMQConnection(settings, "test").open() as rabbitmq:
        yield rabbitmq


@pytest.fixture
async def channel(rabbitmq: RabbitMQ) -> AbstractChannel:
    """A channel for the test's own calls."""
    return await open_channel(rabbitmq.connection, confirms=True)


async def replace_queue(channel: AbstractChannel, name: str) -> AbstractQueue:
    """Replace a queue by one without arguments. A consumer may declare it again first, and then it is replaced again."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            await channel.queue_delete(name)
            try:
                return await channel.declare_queue(name, durable=True)
            except ChannelPreconditionFailed:
                await channel.reopen()
