"""aio-pika: `connect_robust` has no timeout of its own, and waits for ever for a server that says nothing."""

import asyncio
import inspect

import aio_pika
import pytest

from tests.pitfalls.orphans import orphans


async def naive(url: str) -> aio_pika.abc.AbstractRobustConnection:
    return await aio_pika.connect_robust(url)


async def cure(url: str) -> aio_pika.abc.AbstractRobustConnection:
    return await aio_pika.connect_robust(url, timeout=0.2)


@pytest.mark.usefixtures("no_collector")
async def test_it_waits_for_a_server_that_says_nothing(silent_port: int) -> None:
    connecting = asyncio.create_task(naive(f"amqp://guest:guest@127.0.0.1:{silent_port}/"))
    await asyncio.wait({connecting}, timeout=1)

    assert not connecting.done(), "aio-pika has a timeout now"
    assert inspect.signature(aio_pika.connect_robust).parameters["timeout"].default is None, "it has one by default now"
    connecting.cancel()
    await asyncio.wait({connecting})
    for _, lost in orphans():
        await lost.close()


async def test_its_own_timeout_ends_the_wait_and_leaves_nothing(silent_port: int) -> None:
    with pytest.raises(TimeoutError):
        await cure(f"amqp://guest:guest@127.0.0.1:{silent_port}/")
    assert list(orphans()) == []
