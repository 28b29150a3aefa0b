"""Passwords with special characters: percent-encoded they work with every server, and no error shows a part of them."""

import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote, urlsplit

import pytest
from redis.asyncio import Redis

from gateway.devstack.stack import Devstack
from gateway.resources.base import PermanentError, Resource
from gateway.resources.database import DatabaseEngine
from gateway.resources.rabbitmq import RabbitMQConnection
from gateway.resources.redis import RedisPool
from gateway.settings import Settings

PASSWORD = "p@SS/Wo?RD#1:[2]%41 %é&+"


def resource_of(name: str, url: str, password: str) -> Resource[object]:
    """Return a resource whose URL has another password, and the user `special` for the correct one."""
    parts = urlsplit(url)
    user = parts.username if password != PASSWORD else "special"
    address = f"{user or ''}:{quote(password, safe='')}@{parts.hostname}:{parts.port}"
    settings = Settings.model_validate({name: {"url": parts._replace(netloc=address).geturl()}})
    if name == "database":
        return DatabaseEngine(settings.database, "test")
    if name == "redis":
        return RedisPool(settings.redis, "test")
    return RabbitMQConnection(settings.rabbitmq, "test")


@asynccontextmanager
async def special_users(servers: Devstack) -> AsyncIterator[None]:
    """Users of PostgreSQL and Redis with the password exist during the block."""
    async with servers.postgresql.superuser() as connection, Redis.from_url(servers.redis.url) as redis:
        await connection.execute(f"CREATE ROLE special SUPERUSER LOGIN PASSWORD '{PASSWORD}'")
        await redis.acl_setuser("special", enabled=True, passwords=[f"+{PASSWORD}"], keys=["*"], categories=["+@all"])
        try:
            yield
        finally:
            await connection.execute("DROP ROLE special")
            await redis.acl_deluser("special")


@pytest.mark.parametrize("name", ["database", "redis"])
async def test_encoded_password(servers: Devstack, name: str) -> None:
    """A password with all special characters works if it is encoded."""
    url = {"database": servers.postgresql.url, "redis": servers.redis.url}[name]
    async with special_users(servers):
        resource = resource_of(name, url, PASSWORD)
        async with resource.open():
            assert await resource.check()


@pytest.mark.parametrize("name", ["database", "redis", "rabbitmq"])
async def test_wrong_password_is_not_shown(servers: Devstack, name: str) -> None:
    """No part of a wrong password is in the error, nor in its traceback, encoded or not."""
    urls = {"database": servers.postgresql.url, "redis": servers.redis.url, "rabbitmq": servers.rabbitmq.url}
    password = PASSWORD.swapcase()

    with pytest.raises(PermanentError) as caught:
        async with resource_of(name, urls[name], password).open():
            pass

    shown = "".join(traceback.format_exception(caught.value))
    for text in (password, quote(password, safe="")):
        assert not any(text[start : start + 4] in shown for start in range(len(text) - 3))
