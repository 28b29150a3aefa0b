"""Incidents of the database that are no outage: it is read-only, locked, slow or missing a right, or its address moves."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import httpx
import pytest

from faultlab.wire import Proxy
from gateway.devstack import ports
from gateway.devstack.folder import temporary_data_dir
from gateway.devstack.postgresql import RUNTIME_ROLE, PostgreSQLServer
from gateway.devstack.replication import PrimaryServer, StandbyServer
from gateway.devstack.stack import Devstack
from gateway.places.seed import load
from gateway.read_sessions import READ_TIMEOUT
from gateway.resources.database import MAX_READS
from gateway.schema.migrate import migrate
from gateway.schema.transaction import transaction
from gateway.settings import Settings
from tests.end_to_end.harness import OPERATOR, RunningGateway, running_gateway
from tests.end_to_end.test_api import is_problem
from tests.support.shipped_places import SHIPPED
from tests.support.waiting import wait_until

RECOVERY_TIMEOUT = 5.0  # from the end of the incident to the next good response
WRITERS = 60
LOCK_SECONDS = 6.0  # longer than a statement may take
WRITER_DELAY = 0.02  # between the first writes of two clients
PAUSE = 0.25  # of each client between two requests, so that the clients do not use all the time of the processor

TOO_SLOW = "The database is too slow"
TOO_MANY = "Too many requests use the database at once"
BUSY = "The gateway is overloaded"  # on a machine that is so busy that it holds the event loop

PLACES = SHIPPED[:3]
PLACE = f"/v1/places/{PLACES[0][0]}"
OBSERVATIONS = f"{PLACE}/observations"


async def fill(url: str) -> None:
    """Migrate a database, and load a few places."""
    await migrate(url, grant_to=RUNTIME_ROLE)
    async with transaction(url, application_name="test") as connection:
        await load(connection, PLACES)


@asynccontextmanager
async def gateway_with_database(settings: Settings, url: str) -> AsyncIterator[RunningGateway]:
    """Run a gateway with another database. Its API keys let the client write."""
    database = type(settings.database).model_validate(dict(settings.database) | {"url": url})
    changes = {"database": database, "api_keys": ("alice:secret-of-a-test-1",)}
    async with running_gateway(Settings.model_validate(dict(settings) | changes)) as gateway:
        gateway.client.headers["Authorization"] = "Bearer secret-of-a-test-1"
        yield gateway


@pytest.fixture
async def database(servers: Devstack) -> AsyncIterator[str]:
    """The name of a database that only this test uses."""
    name = f"incident_{uuid4().hex[:8]}"
    await fill(await servers.postgresql.create_database(name))
    yield name
    await servers.postgresql.drop_database(name)


@pytest.fixture
async def gateway(servers: Devstack, settings: Settings, database: str) -> AsyncIterator[RunningGateway]:
    async with gateway_with_database(settings, servers.postgresql.url_of(database)) as gateway:
        yield gateway


async def report(gateway: RunningGateway, note: str = "") -> httpx.Response:
    """Send an observation."""
    body = {"temperature_c": 1.0, "condition": "fog", "note": note}
    return await gateway.client.post(OBSERVATIONS, json=body)


async def database_check(gateway: RunningGateway) -> tuple[int, str, str]:
    """Return the status of the readiness response, and the status and the remark of its check of the database."""
    response = await gateway.client.get("/readyz", headers=OPERATOR)
    check = response.json()["checks"]["database"]
    return response.status_code, check["status"], check["remark"]


async def assert_recovers(gateway: RunningGateway) -> None:
    """Assert that a write and the readiness are good again in time."""
    started_at = time.monotonic()

    async def is_stored() -> bool:
        return (await report(gateway)).status_code == 201

    async def is_ready() -> bool:
        return (await database_check(gateway))[1] == "ok"

    await wait_until(is_stored, "an observation is stored")
    await wait_until(is_ready, "the check of the database succeeds")
    recovery_time = time.monotonic() - started_at
    assert recovery_time < RECOVERY_TIMEOUT
    print(f"recovered after {recovery_time:.2f} s")  # noqa: T201 - for docs/reliability.md


async def test_read_only_database(gateway: RunningGateway, servers: Devstack, database: str) -> None:
    """While the database is read-only, readiness and refused writes report that. Afterwards writes recover on their own."""
    assert (await report(gateway)).status_code == 201
    async with servers.postgresql.superuser() as superuser:
        await superuser.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
        await superuser.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", database)

        async def is_read_only() -> bool:
            return "read-only" in str((await report(gateway)).json().get("detail"))

        await wait_until(is_read_only, "the gateway has noticed")
        refused, ready = await report(gateway), await database_check(gateway)
        brief = await gateway.client.get(f"{PLACE}/brief")
        await superuser.execute(f"ALTER DATABASE {database} RESET default_transaction_read_only")

    assert is_problem(refused, 503)
    assert refused.headers["Retry-After"] == "1"
    assert "has stored nothing" in refused.json()["detail"]
    assert ready[:2] == (200, "failed")
    assert "read-only: default_transaction_read_only is on" in ready[2]
    assert brief.status_code == 200
    await assert_recovers(gateway)


@pytest.fixture
async def primary(servers: Devstack) -> AsyncIterator[PrimaryServer]:
    """A primary with a migrated database."""
    del servers  # the other servers of the gateway
    with temporary_data_dir() as folder:
        async with PrimaryServer(folder / "primary") as primary:
            await fill(primary.owner_url)
            yield primary


@pytest.fixture
async def standby(primary: PrimaryServer) -> AsyncIterator[StandbyServer]:
    """The streaming standby of the primary."""
    async with StandbyServer(primary.folder.with_name("standby"), primary) as standby:
        yield standby


@asynccontextmanager
async def writing(gateway: RunningGateway) -> AsyncIterator[list[str]]:
    """Send observations during the block. Yield the notes of those that were acknowledged."""
    acknowledged: list[str] = []
    stopping = asyncio.Event()

    async def write() -> None:
        while not stopping.is_set():
            note = uuid4().hex
            if (await report(gateway, note)).status_code == 201:
                acknowledged.append(note)
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as writers:
        for _ in range(4):
            writers.create_task(write())
        try:
            yield acknowledged
        finally:
            stopping.set()


async def test_switchover(settings: Settings, primary: PrimaryServer, standby: StandbyServer) -> None:
    """After a switchover behind one address writes recover on their own, and no acknowledged observation is lost.

    The old primary comes back as a standby before the address moves, so the gateway has connections that stay open and lead
    to the wrong server.
    """
    async with Proxy("postgresql", "postgresql", ports.LOOPBACK, primary.port) as address:
        url = primary.url.replace(str(primary.port), str(address.port))
        async with gateway_with_database(settings, url) as gateway, writing(gateway) as acknowledged:
            await wait_until(lambda: len(acknowledged) > 100, "observations are stored")
            await primary.stop()
            primary.demote()
            await primary.start()

            async def is_read_only() -> bool:
                return "read-only: the server is a standby" in (await database_check(gateway))[2]

            await wait_until(is_read_only, "readiness reports the standby")
            await standby.promote()
            address.target = ports.LOOPBACK, standby.port
            await assert_recovers(gateway)

    async with standby.superuser("gateway") as superuser:
        stored = Counter(row["note"] for row in await superuser.fetch("SELECT note FROM observations"))
    assert {note: stored[note] for note in acknowledged} == dict.fromkeys(acknowledged, 1)


@asynccontextmanager
async def locked(server: PostgreSQLServer, database: str, table: str) -> AsyncIterator[None]:
    """Lock a table during the block, so that no other transaction can read or write it."""
    async with server.superuser(database) as connection, connection.transaction():
        await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield


async def repeat(operation: Callable[[], Awaitable[httpx.Response]], delay: float = 0) -> list[httpx.Response]:
    """Send one request after the other until `LOCK_SECONDS` from now, with pauses, and return the responses."""
    responses = []
    deadline = time.monotonic() + LOCK_SECONDS
    await asyncio.sleep(delay)
    while time.monotonic() < deadline:
        responses.append(await operation())
        await asyncio.sleep(PAUSE)
    return responses


async def test_locked_observations(gateway: RunningGateway, servers: Devstack, database: str) -> None:
    """A lock that blocks all writes leaves briefs, search and readiness alone. Surplus writes are rejected immediately."""
    notes: dict[str, httpx.Response] = {}

    async def write() -> httpx.Response:
        note = uuid4().hex
        notes[note] = response = await report(gateway, note)
        return response

    def get(path: str) -> Callable[[], Awaitable[httpx.Response]]:
        return lambda: gateway.client.get(path)

    await report(gateway)
    async with locked(servers.postgresql, database, "observations"), asyncio.TaskGroup() as group:
        for number in range(WRITERS):  # one after the other, so that they fill all groups, and the rest is rejected
            group.create_task(repeat(write, number * WRITER_DELAY))
        others = [group.create_task(repeat(get(path))) for path in (f"{PLACE}/brief", "/v1/places?q=a", "/readyz")]
    briefs, searches, ready = (task.result() for task in others)

    assert {response.status_code for response in (*briefs, *searches, *ready)} == {200}
    assert {response.json()["checks"]["database"]["status"] for response in ready} == {"ok"}
    assert {response.status_code for response in notes.values()} == {503}
    assert {response.headers["Retry-After"] for response in notes.values()} == {"1"}
    rejected = [response for response in notes.values() if "has stored nothing" in response.json()["detail"]]
    assert min(response.elapsed.total_seconds() for response in rejected) < 0.5
    await assert_recovers(gateway)
    await asyncio.gather(*(write() for _ in range(WRITERS)))
    async with servers.postgresql.superuser(database) as superuser:
        stored = Counter(row["note"] for row in await superuser.fetch("SELECT note FROM observations"))
    acknowledged = [note for note, response in notes.items() if response.status_code == 201]
    assert len(acknowledged) == WRITERS
    assert {note: stored[note] for note in acknowledged} == dict.fromkeys(acknowledged, 1)
    assert [note for note, response in notes.items() if response in rejected and stored[note]] == []


async def test_slow_search(gateway: RunningGateway, servers: Devstack, database: str) -> None:
    """A search has a deadline, and searches that get no turn in time are reported as too many. Readiness is unaffected."""
    async with locked(servers.postgresql, database, "places"):
        started_at = time.monotonic()
        responses = await asyncio.gather(*(gateway.client.get("/v1/places?q=a") for _ in range(3 * MAX_READS)))
        elapsed = time.monotonic() - started_at
        ready = await database_check(gateway)

    reasons = {response.json()["detail"].removesuffix(". Try again in a second.") for response in responses}
    assert all(is_problem(response, 503) and response.headers["Retry-After"] == "1" for response in responses)
    assert reasons - {BUSY} == {TOO_SLOW, TOO_MANY}
    assert READ_TIMEOUT <= elapsed < READ_TIMEOUT + 2
    assert ready[:2] == (200, "ok")
    assert (await gateway.client.get("/v1/places?q=a")).status_code == 200


async def test_missing_right(gateway: RunningGateway, servers: Devstack, database: str) -> None:
    """Requests that lack a right in the database get a 503 that names the cause. No process ends."""
    async with servers.postgresql.superuser(database) as superuser:
        await superuser.execute("REVOKE ALL ON places, observations FROM gateway")
        try:
            responses = [await gateway.client.get(path) for path in ("/v1/places?q=a", f"{PLACE}/brief")]
            responses.append(await report(gateway))
        finally:
            await superuser.execute("GRANT ALL ON places, observations TO gateway")

    assert all(is_problem(response, 503) for response in responses)
    assert all("lacks a right" in response.json()["detail"] for response in responses)
    await assert_recovers(gateway)
