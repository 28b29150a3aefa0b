"""What every trap needs: servers that are not there or say nothing, and the certainty that a test gives back what leaked."""

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Iterator

import pytest

from faultlab import ResourceSnapshot
from tests.end_to_end.running import assert_nothing_is_left


@pytest.fixture(autouse=True)
async def nothing_is_left(anyio_backend: str) -> AsyncIterator[None]:
    """A test ends holding what it began with: it gives back itself what the naive code has leaked."""
    del anyio_backend  # asked for, so that a test that is not async has this fixture, too
    before = ResourceSnapshot.take()
    yield
    gc.collect()  # aio-pika closes what it has lost in a finalizer, with a task: here, not in the middle of another test
    await assert_nothing_is_left(before)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Whether the garbage collector comes by while a library has lost its own task is luck: here it does not."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """A port of ours on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock.getsockname()[1]


@pytest.fixture
async def cutting_port() -> AsyncIterator[int]:
    """A port that takes a request, and cuts the connection instead of answering."""

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    async with await asyncio.start_server(cut, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
