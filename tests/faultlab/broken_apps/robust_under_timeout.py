"""`asyncio.timeout` around `connect_robust`: it connects in a task of its own, which a cancelled caller can neither see nor end."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
from aio_pika import RobustConnection
from aio_pika.connection import make_url
from aiormq.connection import TCPTransportFactory, TransportFactory
from fastapi import FastAPI
from yarl import URL

from gateway.lifecycle import LifecycleStack


@asynccontextmanager
async def naive_lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with asyncio.timeout(5):
        app.state.rabbitmq = await aio_pika.connect_robust(os.environ["RABBITMQ_URL"])
    async with app.state.rabbitmq:
        yield


class Transports(TransportFactory):
    """Remembers the transports: one that is made in the very tick of a cancellation is known to nobody else."""

    def __init__(self) -> None:
        self._made: list[asyncio.WriteTransport] = []

    async def create(self, url: URL, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await TCPTransportFactory().create(url, **options)
        self._made.append(writer.transport)
        return reader, writer

    def abort(self) -> None:
        for transport in self._made:
            transport.abort()


@asynccontextmanager
async def opened() -> AsyncGenerator[RobustConnection]:
    connection = RobustConnection(make_url(os.environ["RABBITMQ_URL"], reconnect_interval=0.1))
    transports = connection.kwargs["transport_factory"] = Transports()
    try:
        await connection.connect()
        yield connection
    finally:  # certain before it connects: this ends the task, wherever that is
        await connection.close()
        transports.abort()


@asynccontextmanager
async def cured_lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with LifecycleStack() as stack:
        app.state.rabbitmq = await stack.enter("rabbitmq", opened(), start_timeout=5, stop_timeout=2)
        yield


def naive() -> FastAPI:
    return FastAPI(lifespan=naive_lifespan)


def cured() -> FastAPI:
    return FastAPI(lifespan=cured_lifespan)
