"""A server that the tests of the control may suspend and kill."""

from collections.abc import AsyncIterator

import pytest

from gateway.devstack.redis import RedisServer


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[RedisServer]:
    """The Redis of the session. After the test it runs again, with its data."""
    yield redis_server
    if redis_server.running:
        redis_server.resume()
    else:
        await redis_server.start()
