"""contextlib.AsyncExitStack: the error of the rollback replaces the error of the start."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from gateway.lifecycle import LifecycleStack, StartError


@asynccontextmanager
async def first() -> AsyncGenerator[None]:
    try:
        yield
    finally:
        raise RuntimeError("the first does not close")


@asynccontextmanager
async def second() -> AsyncGenerator[None]:
    raise ConnectionRefusedError("the second is away")
    yield


async def naive() -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(first())
        await stack.enter_async_context(second())


async def cure() -> None:
    async with LifecycleStack() as stack:
        await stack.enter("first", first(), start_timeout=1, stop_timeout=1)
        await stack.enter("second", second(), start_timeout=1, stop_timeout=1)


async def test_one_reads_that_the_first_does_not_close() -> None:
    with pytest.raises(RuntimeError, match="the first does not close") as raised:
        await naive()
    assert isinstance(raised.value.__context__, ConnectionRefusedError)


async def test_the_start_error_leaves_with_the_others_attached() -> None:
    with pytest.raises(StartError, match="second failed to start") as raised:
        await cure()
    assert isinstance(raised.value.__cause__, ConnectionRefusedError)
    assert raised.value.teardown is not None
    assert [str(error) for error in raised.value.teardown.exceptions] == ["the first does not close"]
