"""aio-pika: the addresses of a name are tried one after another, so a dead first one takes minutes."""

import asyncio
import socket
from typing import Any

import aio_pika
import pytest

from gateway.devstack.rabbitmq import RabbitMQServer

NAME, DEAD = "rabbitmq.example", "127.0.0.98"


async def broken(url: str) -> aio_pika.abc.AbstractRobustConnection:
    return await aio_pika.connect_robust(url, timeout=1)


async def fixed(url: str) -> aio_pika.abc.AbstractRobustConnection:
    return await aio_pika.connect_robust(url, timeout=1, happy_eyeballs_delay=0.25)


async def test_dead_first_address(rabbitmq_server: RabbitMQServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connect times out although the second address works. An option races the addresses."""
    port = rabbitmq_server.port
    url = rabbitmq_server.url.replace("127.0.0.1", NAME)

    async def getaddrinfo(*_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in (DEAD, "127.0.0.1")]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    with socket.socket() as full, socket.socket() as filler, socket.socket() as second_filler:
        full.bind((DEAD, port))
        full.listen(0)
        for client in (filler, second_filler):  # the backlog is full, so that every SYN is dropped
            client.setblocking(False)
            client.connect_ex((DEAD, port))

        with pytest.raises(TimeoutError):  # otherwise fixed upstream: the addresses are raced by default
            await broken(url)
        await (await fixed(url)).close()
