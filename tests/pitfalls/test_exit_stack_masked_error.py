"""contextlib.AsyncExitStack: an error of the rollback masks the error of the startup."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from gateway.lifecycle import LifecycleStack, StartError


@asynccontextmanager
async def first() -> AsyncGenerator[None]:
    try:
        yield
    finally:
        raise RuntimeError("first does not close")


@asynccontextmanager
async def second() -> AsyncGenerator[None]:
    raise ConnectionRefusedError("second is unavailable")
    yield


async def broken() -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(first())
        await stack.enter_async_context(second())


async def fixed() -> None:
    async with LifecycleStack() as stack:
        await stack.enter("first", first(), start_timeout=1, stop_timeout=1)
        await stack.enter("second", second(), start_timeout=1, stop_timeout=1)


async def test_rollback_error_masks_start_error() -> None:
    """`AsyncExitStack` raises the error of the close. The reason of the failed startup is only its `__context__`."""
    with pytest.raises(RuntimeError, match="first does not close") as raised:
        await broken()
    assert isinstance(raised.value.__context__, ConnectionRefusedError)


async def test_start_error_has_teardown_errors() -> None:
    """`LifecycleStack` raises the error of the startup, with the errors of the rollback attached."""
    with pytest.raises(StartError, match="second failed to start") as raised:
        await fixed()
    assert isinstance(raised.value.__cause__, ConnectionRefusedError)
    assert raised.value.teardown is not None
    assert [str(error) for error in raised.value.teardown.exceptions] == ["first does not close"]
