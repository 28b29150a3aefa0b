"""What the tests of the core share."""

import asyncio
from collections.abc import AsyncIterator

import pytest


@pytest.fixture
async def end() -> AsyncIterator[asyncio.Event]:
    """Set at the end of the test, whatever happens: what ignores its cancellations waits for it."""
    event = asyncio.Event()
    yield event
    event.set()
