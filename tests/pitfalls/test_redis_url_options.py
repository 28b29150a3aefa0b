"""redis-py: options in the URL replace the arguments of the program, and a path that is no number is ignored."""

from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis


def broken(url: str) -> Redis:
    return Redis.from_url(url, max_connections=20)


def fixed(url: str) -> Redis:
    parts = urlsplit(url)
    if parts.query or not parts.path.removeprefix("/").isdigit():
        raise ValueError("the URL of Redis should end with the number of a database")
    return Redis.from_url(url, max_connections=20)


def test_options_replace_arguments() -> None:
    """The pool has one connection, and uses database 0."""
    pool = broken("redis://localhost/cache?max_connections=1").connection_pool

    assert pool.max_connections == 1, "fixed upstream: the argument is used"
    assert "db" not in pool.connection_kwargs


def test_checked_url_is_rejected() -> None:
    """A URL that is checked first is rejected."""
    for url in ("redis://localhost/cache", "redis://localhost/0?max_connections=1"):
        with pytest.raises(ValueError, match="number of a database"):
            fixed(url)
    assert fixed("redis://localhost/0").connection_pool.max_connections == 20
