"""aio-pika: `connect_robust` has no default timeout, and hangs if the server accepts the connection and sends nothing."""

import asyncio
import inspect

import aio_pika
import pytest

from tests.pitfalls.orphaned_connections import orphaned_connections


async def broken(url: str) -> aio_pika.abc.AbstractRobustConnection:
    return await aio_pika.connect_robust(url)


async def fixed(url: str) -> aio_pika.abc.AbstractRobustConnection:
    return await aio_pika.connect_robust(url, timeout=0.2)


@pytest.mark.usefixtures("gc_disabled")
async def test_connect_robust_hangs_on_silent_server(silent_port: int) -> None:
    """There is no timeout: after a second the call still waits, and the parameter's default is None."""
    connecting = asyncio.create_task(broken(f"amqp://guest:guest@127.0.0.1:{silent_port}/"))
    await asyncio.wait({connecting}, timeout=1)

    assert not connecting.done(), "fixed upstream: aio-pika has a timeout"
    default = inspect.signature(aio_pika.connect_robust).parameters["timeout"].default
    assert default is None, "fixed upstream: aio-pika has a default timeout"
    connecting.cancel()
    await asyncio.wait({connecting})
    for _, connection in orphaned_connections():
        await connection.close()


async def test_timeout_parameter_leaves_nothing(silent_port: int) -> None:
    """The timeout of `connect_robust` itself ends the wait and leaves no connection behind."""
    with pytest.raises(TimeoutError):
        await fixed(f"amqp://guest:guest@127.0.0.1:{silent_port}/")
    assert list(orphaned_connections()) == []
