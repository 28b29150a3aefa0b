"""Fixtures of the core's tests."""

import asyncio
from collections.abc import AsyncIterator

import pytest


@pytest.fixture
async def end_of_test() -> AsyncIterator[asyncio.Event]:
    """An event for hooks that ignore cancellations: it is set after the test, and their tasks must end then."""
    event = asyncio.Event()
    yield event
    event.set()
    core_tasks = {task for task in asyncio.all_tasks() if task.get_name().startswith(("owner of ", "check of "))}
    async with asyncio.timeout(5):
        await asyncio.gather(*core_tasks, return_exceptions=True)
