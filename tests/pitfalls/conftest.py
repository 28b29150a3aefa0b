"""Fixtures of the pitfalls: ports that do not behave, and a leak check after each test."""

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Iterator

import pytest

from faultlab import ResourceSnapshot
from tests.end_to_end.harness import assert_no_process_leaks
from tests.events.conftest import vhost

__all__ = ["vhost"]


@pytest.fixture(autouse=True)
async def no_leaks(anyio_backend: str) -> AsyncIterator[None]:
    """Fail a test that leaves something open. Each test releases what its broken code leaks."""
    del anyio_backend  # requested so that tests that are not async have this fixture, too
    before = ResourceSnapshot.take()
    yield
    gc.collect()  # aio-pika closes lost connections from a finalizer, by a task: have it run here, not in another test
    await assert_no_process_leaks(before)


@pytest.fixture
def gc_disabled() -> Iterator[None]:
    """Disable the garbage collector, which destroys a task that a library has lost at a random time."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """A port that refuses connections: it is bound, but not listening."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never sends a byte."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock.getsockname()[1]


@pytest.fixture
async def aborting_port() -> AsyncIterator[int]:
    """A port that reads a request and aborts the connection instead of sending a response."""

    async def abort(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    async with await asyncio.start_server(abort, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
