"""The error messages about the database: the same line from all commands for the same cause, from a real server."""

from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from gateway.devstack.stack import Devstack
from gateway.error_messages import explain, explain_database_error
from gateway.lifecycle import StartError
from gateway.places.seed import seed
from gateway.schema.migrate import migrate
from gateway.settings import Settings
from gateway.worker import Worker, worker_lifespan
from tests.end_to_end.harness import running_gateway


def with_database(settings: Settings, url: str) -> Settings:
    database = settings.database.model_copy(update={"url": SecretStr(url), "start_timeout": 0.5})
    return settings.model_copy(update={"database": database})


async def start_line(settings: Settings) -> str:
    """Return the message of `serve` and `check`."""
    with pytest.raises(StartError) as caught:
        async with running_gateway(settings):
            pass
    return explain(caught.value, settings)


async def worker_line(settings: Settings) -> str:
    with pytest.raises(StartError) as caught:
        async with worker_lifespan(Worker(settings)):
            pass
    return explain(caught.value, settings)


async def database_line(command: Callable[[str], Awaitable[object]], settings: Settings) -> str:
    """Return the message of `migrate` or `seed`."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - any error has a message
        await command(settings.database.url.get_secret_value())
    return explain_database_error(caught.value, settings)


def with_password(url: str) -> str:
    return url.replace(str(urlsplit(url).password), "hunter2")


CAUSES: dict[str, tuple[Callable[[str], str], str]] = {
    "refused": (lambda url: url.replace(f":{urlsplit(url).port}", ":1"), "connection refused: check that 127.0.0.1:1"),
    "unknown host": (lambda url: url.replace("127.0.0.1", "nowhere.invalid"), "check that nowhere.invalid:"),
    "wrong password": (with_password, "rejects this user or password"),
    "no such database": (lambda url: f"{url}-missing", "has no such database"),
}


@pytest.mark.parametrize("cause", CAUSES)
async def test_same_line(settings: Settings, servers: Devstack, cause: str) -> None:
    """All commands name the variable and the fix in the same line. A startup adds how long it tried."""
    change, expected = CAUSES[cause]
    settings = with_database(settings, change(servers.postgresql.url))

    line = await database_line(migrate, settings)

    assert line.startswith("database: GATEWAY_DATABASE__URL: ")
    assert expected in line
    assert "hunter2" not in line
    assert await database_line(seed, settings) == line
    for start in (start_line, worker_line):
        assert (await start(settings)).removesuffix(" (not entered within 0.5 s)") == line


async def test_not_migrated(settings: Settings, empty_database: str) -> None:
    """All commands that need a migrated database name the variable and `gateway migrate` in the same line."""
    settings = with_database(settings, empty_database)

    line = await database_line(seed, settings)

    assert line.startswith("database: GATEWAY_DATABASE__URL: the database was never migrated")
    assert "`gateway migrate`" in line
    assert {await start_line(settings), await worker_line(settings)} == {line}
