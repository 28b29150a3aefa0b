"""PgBouncer in transaction mode, between the gateway and PostgreSQL."""

import asyncio
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from gateway.devstack.stack import Devstack
from gateway.observations.reports import NewObservation
from gateway.places.seed import seed
from gateway.process.exit_status import ExitStatus
from gateway.resources.base import PermanentError
from gateway.resources.database import DatabaseEngine
from gateway.schema.connect import ConnectError
from gateway.schema.migrate import migrate
from gateway.schema.revision import REVISIONS
from gateway.schema.transaction import transaction
from gateway.settings import DatabaseSettings, Settings
from tests.end_to_end.conftest import StartProcess
from tests.end_to_end.harness import ZURICH, running_gateway
from tests.end_to_end.test_worker import RAIN, place, start_worker, wait_for_count
from tests.events.conftest import vhost
from tests.support.pgbouncer import DEFAULT_POOL_SIZE, PgBouncerServer, pgbouncer
from tests.support.waiting import wait_until

__all__ = ["pgbouncer", "place", "vhost"]

pytestmark = pytest.mark.usefixtures("servers")  # a migrated database, also for tests of the database alone

MAX_DURATION = 10.0  # of a start that fails at once, on a busy machine
CLIENTS = 4 * DEFAULT_POOL_SIZE


@pytest.fixture
def environment(environment: dict[str, str], vhost: str, pgbouncer: PgBouncerServer) -> dict[str, str]:
    """The variables of a gateway whose database is behind PgBouncer, with a virtual host of the test."""
    return environment | {
        "GATEWAY_RABBITMQ__URL": vhost,
        "GATEWAY_DATABASE__URL": pgbouncer.url,
        "GATEWAY_DATABASE__PREPARED_STATEMENTS": "none",
    }


async def test_check(start: StartProcess) -> None:
    """All entries start and pass their health checks."""
    process = start("check")

    assert await process.exit_status() == ExitStatus.OK, process.output


async def error_of(url: str) -> PermanentError:
    """Return the error of a start that fails at once."""
    with pytest.raises(PermanentError) as caught:
        async with (
            asyncio.timeout(MAX_DURATION),
            DatabaseEngine(DatabaseSettings.model_validate({"url": url}), "test").open(),
        ):
            pass
    return caught.value


async def test_without_the_setting(pgbouncer: PgBouncerServer) -> None:
    """The default settings fail at once, with the variable to set and its values."""
    error = await error_of(pgbouncer.url)

    assert f"127.0.0.1:{pgbouncer.port} is a connection pooler" in str(error)
    assert "set GATEWAY_DATABASE__PREPARED_STATEMENTS to none" in str(error)


async def test_unsupported_option(pgbouncer: PgBouncerServer) -> None:
    """An option of the URL that a pooler does not support fails at once."""
    error = await error_of(f"{pgbouncer.url}?prepared_statements=none&options=-c%20work_mem%3D8MB")

    assert str(error).endswith("does not support the option 'options': remove it")


async def test_options_of_the_driver(pgbouncer: PgBouncerServer) -> None:
    """The options that the documentation of asyncpg and SQLAlchemy recommends for PgBouncer are enough."""
    url = f"{pgbouncer.url}?statement_cache_size=0&prepared_statement_cache_size=0"
    resource = DatabaseEngine(DatabaseSettings.model_validate({"url": url}), "test")
    async with resource.open() as engine, engine.connect() as connection:
        assert await connection.scalar(text("SHOW timezone")) == "UTC"


async def test_named_statements(servers: Devstack, devstack_folder: Path) -> None:
    """In session mode, statements have names, and no startup parameter is sent that PgBouncer rejects."""
    async with PgBouncerServer(
        devstack_folder / "pgbouncer-session", servers.postgresql, pool_mode="session"
    ) as server:
        settings = DatabaseSettings.model_validate({"url": server.url, "prepared_statements": "named"})
        async with DatabaseEngine(settings, "test").open() as engine, engine.connect() as connection:
            await connection.execute(text("SELECT 42"))
            assert await connection.scalar(text("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''"))


async def test_rejected_password(pgbouncer: PgBouncerServer) -> None:
    """A rejection by PgBouncer, which has a code of its own, fails at once as one of PostgreSQL does."""
    error = await error_of(pgbouncer.url.replace("//gateway:", "//gateway:not-") + "?prepared_statements=none")

    assert str(error).startswith("GATEWAY_DATABASE__URL: ")
    assert "rejects this user or password" in str(error)


async def test_unknown_database(pgbouncer: PgBouncerServer) -> None:
    """The same for the name of the database."""
    error = await error_of(f"{pgbouncer.url_of('nowhere')}?prepared_statements=none")

    assert "has no such database" in str(error)


async def test_migrate_and_seed(pgbouncer: PgBouncerServer, empty_database: str) -> None:
    """An empty database is migrated and seeded, each twice at the same time."""
    url = f"{pgbouncer.owner_url_of(empty_database.rpartition('/')[2])}?prepared_statements=none"
    results = await asyncio.gather(migrate(url), migrate(url))
    assert sorted(len(result.applied) for result in results) == [0, len(REVISIONS)]
    seeded = await asyncio.gather(seed(url), seed(url))
    assert 0 in [result.inserted for result in seeded]
    await pgbouncer.restart()  # its connections would keep the database from being dropped


async def test_statement_timeout_of_a_migration(
    pgbouncer: PgBouncerServer, servers: Devstack, empty_database: str
) -> None:
    """A concurrent index that the timeout of a role or database ends is reported with the reason and the way out."""
    name = empty_database.rpartition("/")[2]
    async with servers.postgresql.superuser() as superuser:
        await superuser.execute(f'ALTER DATABASE "{name}" SET statement_timeout = 300')
    async with transaction(empty_database, application_name="stranger") as stranger:
        await stranger.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        await stranger.execute(text("SELECT 1 FROM pg_class"))
        with pytest.raises(
            ConnectError, match=r"revision 0004 .*statement timeout.*: if it is a connection pooler, use"
        ):
            await migrate(f"{pgbouncer.owner_url_of(name)}?prepared_statements=none")
    await pgbouncer.restart()  # its connections would keep the database from being dropped


async def test_observation_is_counted(start: StartProcess, servers: Devstack, place: int) -> None:
    """An observation is stored, relayed and counted, with two processes whose statements share the connections."""
    await start_worker(start)
    url = await start("serve", "--port", "0").url()
    async with httpx.AsyncClient(base_url=url) as client:
        response = await client.post(f"/v1/places/{place}/observations", json=RAIN)
        assert response.status_code == 201
        await wait_for_count(servers, place, 1)

        assert (await client.get(f"/v1/places/{place}")).json()["observation_count"] == 1


async def test_concurrent_clients(settings: Settings, servers: Devstack, place: int) -> None:
    """More clients than connections read briefs, search and write at the same time. All responses are complete."""
    async with running_gateway(settings) as gateway:

        async def use(number: int) -> list[int]:
            responses = [
                await gateway.client.get(f"/v1/places/{ZURICH}/brief"),
                await gateway.client.get("/v1/places", params={"q": f"zür{'i' * (number % 2)}"}),
            ]
            new = NewObservation(place, 1.5, "rain", f"number {number}")
            await gateway.services.writer.write(new, f"pgbouncer-{number}")
            responses.append(await gateway.client.get(f"/v1/places/{place}/brief"))
            assert responses[0].json()["complete"], responses[0].text
            return [response.status_code for response in responses]

        for _ in range(3):
            statuses = await asyncio.gather(*map(use, range(CLIENTS)))
            assert statuses == [[200, 200, 200]] * CLIENTS
        assert await connection_count(servers, settings.instance) <= DEFAULT_POOL_SIZE


async def test_recovers_from_an_outage(settings: Settings, pgbouncer: PgBouncerServer) -> None:
    """When PgBouncer was killed and is back, the next statement works."""
    async with running_gateway(settings) as gateway:
        async with pgbouncer.killed():
            assert (await gateway.client.get(f"/v1/places/{ZURICH}")).status_code == 503

        async def is_back() -> bool:
            return (await gateway.client.get(f"/v1/places/{ZURICH}")).status_code == 200

        await wait_until(is_back, "the gateway uses the database again", timeout=5)


async def connection_count(servers: Devstack, instance: str) -> int:
    return (await servers.postgresql.clients()).count(instance)
