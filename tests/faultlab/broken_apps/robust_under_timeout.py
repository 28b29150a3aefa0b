"""`asyncio.timeout` around `connect_robust`: it connects in a task of its own, which the timeout does not cancel."""

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
async def broken_lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with asyncio.timeout(5):
        app.state.rabbitmq = await aio_pika.connect_robust(os.environ["RABBITMQ_URL"])
    async with app.state.rabbitmq:
        yield


class TrackingTransportFactory(TransportFactory):
    """Keeps the transports, to abort them: a cancellation in the moment of the connect loses the only other reference."""

    def __init__(self) -> None:
        self._transports: list[asyncio.WriteTransport] = []

    async def create(self, url: URL, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await TCPTransportFactory().create(url, **options)
        self._transports.append(writer.transport)
        return reader, writer

    def abort(self) -> None:
        for transport in self._transports:
            transport.abort()


@asynccontextmanager
async def open_connection() -> AsyncGenerator[RobustConnection]:
    connection = RobustConnection(make_url(os.environ["RABBITMQ_URL"], reconnect_interval=0.1))
    transports = connection.kwargs["transport_factory"] = TrackingTransportFactory()
    try:
        await connection.connect()
        yield connection
    finally:  # entered before the connect, so that the connection's task is always ended
        await connection.close()
        transports.abort()


@asynccontextmanager
async def fixed_lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with LifecycleStack() as stack:
        app.state.rabbitmq = await stack.enter("rabbitmq", open_connection(), start_timeout=5, stop_timeout=2)
        yield


def broken() -> FastAPI:
    return FastAPI(lifespan=broken_lifespan)


def fixed() -> FastAPI:
    return FastAPI(lifespan=fixed_lifespan)
