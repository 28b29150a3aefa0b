"""`gateway worker` as a process: it counts each observation once, even if servers or processes are killed."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGKILL, SIGTERM, Signals

import aio_pika
import httpx
import pytest
from aio_pika.abc import AbstractChannel
from redis.asyncio import Redis
from sqlalchemy import func, select, update

from gateway.briefs.queries import popularity_key
from gateway.devstack.stack import Devstack
from gateway.events.messages import BriefViewed, ObservationRef, ObservationReported, ViewCounts, encode
from gateway.events.topology import DEAD_LETTERS, DELIVERY_LIMIT, OBSERVATIONS, VIEWS, declare
from gateway.process.exit_status import ExitStatus
from gateway.schema.migrate import migrate
from gateway.schema.tables import consumed_events, places
from gateway.schema.transaction import transaction
from gateway.worker import PREFETCH
from tests.end_to_end.conftest import StartProcess
from tests.end_to_end.harness import Process, assert_no_server_leaks
from tests.events.conftest import vhost
from tests.support.shipped_places import SHIPPED
from tests.support.waiting import wait_until

__all__ = ["vhost"]

MAX_COUNT = 2**31 - 1  # of the column
RAIN = {"temperature_c": 12.5, "condition": "rain"}

BROKEN_WORKER = """
from gateway import worker
from gateway.cli import main

async def count_observation(*_):
    raise TypeError("a bug")

worker.count_observation = count_observation
main()
"""

_unused_places = (row[0] for row in SHIPPED[100:])


@pytest.fixture
def place() -> int:
    """A place that no other test uses."""
    place_id: int = next(_unused_places)
    return place_id


@pytest.fixture
async def full_place(servers: Devstack) -> AsyncIterator[int]:
    """A place that no other test uses, and whose count is at its limit."""
    place_id: int = next(_unused_places)

    async def set_count(count: int) -> None:
        async with transaction(servers.postgresql.url, application_name="test") as connection:
            await connection.execute(update(places).values(observation_count=count).where(places.c.id == place_id))

    await set_count(MAX_COUNT)
    yield place_id
    await set_count(0)


@pytest.fixture
def environment(environment: dict[str, str], vhost: str) -> dict[str, str]:
    """The variables, with a virtual host of the test."""
    return environment | {"GATEWAY_RABBITMQ__URL": vhost}


@pytest.fixture
async def broker(vhost: str) -> AsyncIterator[AbstractChannel]:
    """A channel of the test, with all exchanges and queues declared."""
    async with await aio_pika.connect(vhost) as connection:
        channel = await connection.channel()
        await declare(channel)
        yield channel


async def start_worker(start: StartProcess, *options: str, **variables: str) -> Process:
    """Start a worker, and wait until it consumes both queues."""
    process = start("worker", *options, **variables)
    for queue in (OBSERVATIONS.name, VIEWS.name):
        await process.wait_for_output(queue)
    await process.wait_for_output('"event": "working"')
    return process


async def publish(channel: AbstractChannel, *bodies: bytes, event_type: str = OBSERVATIONS.routing_key) -> None:
    exchange = await channel.get_exchange("gateway.events")
    for body in bodies:
        await exchange.publish(aio_pika.Message(body, delivery_mode=2), event_type)


def observation_messages(place: int, count: int = 1) -> list[bytes]:
    return [encode(ObservationReported.create(ObservationRef(observation_id=n, place_id=place))) for n in range(count)]


async def observation_count(servers: Devstack, place: int) -> int:
    async with transaction(servers.postgresql.url, application_name="test") as connection:
        return await connection.scalar(select(places.c.observation_count).where(places.c.id == place)) or 0


async def wait_for_count(servers: Devstack, place: int, expected: int) -> None:
    """Wait until at least `expected` observations of the place are counted, and assert that there are no more."""

    async def is_counted() -> bool:
        return await observation_count(servers, place) >= expected

    await wait_until(is_counted, f"{expected} observations are counted")
    assert await observation_count(servers, place) == expected


async def message_count(channel: AbstractChannel, queue: str) -> int:
    return (await channel.declare_queue(queue, passive=True)).declaration_result.message_count or 0


async def wait_for_dead_letters(channel: AbstractChannel, count: int) -> None:
    async def is_reached() -> bool:
        return await message_count(channel, DEAD_LETTERS) == count

    await wait_until(is_reached, f"there are {count} dead letters")


class TestObservations:
    async def test_created_observation_is_counted(self, start: StartProcess, servers: Devstack, place: int) -> None:
        """An observation that the gateway stored is counted by the worker, and the place has the new count."""
        await start_worker(start)
        url = await start("serve", "--port", "0").url()
        async with httpx.AsyncClient(base_url=url) as client:
            response = await client.post(f"/v1/places/{place}/observations", json=RAIN)
            assert response.status_code == 201
            await wait_for_count(servers, place, 1)

            assert (await client.get(f"/v1/places/{place}")).json()["observation_count"] == 1

    async def test_duplicates_are_counted_once(
        self, start: StartProcess, servers: Devstack, broker: AbstractChannel, place: int
    ) -> None:
        """Messages that are delivered several times are counted once."""
        await start_worker(start)
        messages = observation_messages(place, 10)
        await publish(broker, *messages, *messages, *reversed(messages))
        await publish(broker, *observation_messages(place))
        await wait_for_count(servers, place, 11)

        async def is_empty() -> bool:
            return await message_count(broker, OBSERVATIONS.name) == 0

        await wait_until(is_empty, "the queue is empty")
        assert await observation_count(servers, place) == 11

    async def test_rabbitmq_outage_loses_no_observation(
        self, start: StartProcess, servers: Devstack, place: int
    ) -> None:
        """Observations are accepted while RabbitMQ is down. They wait in the outbox, and each is counted after the outage."""
        worker = await start_worker(start)
        url = await start("serve", "--port", "0").url()
        async with httpx.AsyncClient(base_url=url) as client:
            statuses: list[int] = []

            async def create(count: int) -> None:
                for _ in range(count):
                    response = await client.post(f"/v1/places/{place}/observations", json=RAIN)
                    statuses.append(response.status_code)

            async def relay_detail_has(text: str) -> bool:
                checks = (await client.get("/readyz")).json()["checks"]
                return text in (checks["relay"]["remark"] or "")

            await create(5)
            await servers.rabbitmq.sync()
            writing = asyncio.create_task(create(40))
            servers.rabbitmq.kill()
            try:
                await writing
                await create(5)
                await wait_until(
                    lambda: relay_detail_has(" waiting, trying again"),
                    "the health details have the depth of the outbox",
                )
                assert not await relay_detail_has("outbox: 0 waiting")
            finally:
                await servers.rabbitmq.start()
            await wait_for_count(servers, place, 50)
            await wait_until(lambda: relay_detail_has("outbox: 0 waiting, dead letters: 0"), "the outbox is empty")

        assert statuses == [201] * 50
        assert "crashed" not in worker.output

    async def test_killed_worker_counts_once(
        self, start: StartProcess, servers: Devstack, broker: AbstractChannel, place: int
    ) -> None:
        """A worker that is killed while it counts loses no observation, counts none twice, and dead-letters none."""
        for round_ in range(3):
            process = await start_worker(start)
            await publish(broker, *observation_messages(place, 100))
            minimum = round_ * 100 + 20

            async def some_are_counted(minimum: int = minimum) -> bool:
                return await observation_count(servers, place) >= minimum

            await wait_until(some_are_counted, f"{minimum} observations are counted")
            process.send_signal(SIGKILL)
            await process.exit_status()
        await start_worker(start)

        await wait_for_count(servers, place, 300)
        assert await message_count(broker, DEAD_LETTERS) == 0

    @pytest.mark.parametrize("outage", ["killed", "suspended"])
    async def test_database_outage_dead_letters_nothing(
        self, start: StartProcess, servers: Devstack, broker: AbstractChannel, place: int, outage: str
    ) -> None:
        """While the database is unavailable, observations wait in the worker. They are counted after the outage."""
        process = await start_worker(start)
        if outage == "killed":
            servers.postgresql.kill()
        else:
            servers.postgresql.suspend()
        try:
            await publish(broker, *observation_messages(place, 2 * DELIVERY_LIMIT))
            await process.wait_for_output("handler failed, retrying")
        finally:
            if outage == "killed":
                await servers.postgresql.start()
            else:
                servers.postgresql.resume()

        await wait_for_count(servers, place, 2 * DELIVERY_LIMIT)
        assert await message_count(broker, DEAD_LETTERS) == 0

    async def test_poison_messages_are_dead_lettered(
        self, start: StartProcess, servers: Devstack, broker: AbstractChannel, place: int
    ) -> None:
        """Messages that cannot be decoded are dead-lettered and not logged, and the next observation is counted."""
        process = await start_worker(start)
        await publish(
            broker, b"not JSON", b'{"type": "unknown"}', encode(BriefViewed.create(ViewCounts(views={place: 1})))
        )
        await publish(broker, *observation_messages(place))

        await wait_for_count(servers, place, 1)
        await wait_for_dead_letters(broker, 3)
        assert process.output.count("poison message rejected") == 3
        assert "not JSON" not in process.output

    async def test_rejected_data_delays_no_observation(
        self, start: StartProcess, servers: Devstack, broker: AbstractChannel, place: int, full_place: int
    ) -> None:
        """Observations that the database cannot count are dead-lettered, and those of another place are counted."""
        process = await start_worker(start)
        await publish(broker, *observation_messages(full_place, PREFETCH + 2))
        await publish(broker, *observation_messages(place, 3))

        await wait_for_count(servers, place, 3)
        await wait_for_dead_letters(broker, PREFETCH + 2)
        assert process.output.count("event rejected") == PREFETCH + 2
        assert "crashed" not in process.output


class TestViews:
    async def test_duplicates_are_added_once(
        self, start: StartProcess, servers: Devstack, broker: AbstractChannel, place: int
    ) -> None:
        """The views of an event that is delivered twice are added once."""
        await start_worker(start)
        duplicate = encode(BriefViewed.create(ViewCounts(views={place: 3})))
        last = encode(BriefViewed.create(ViewCounts(views={place: 4})))
        await publish(broker, duplicate, duplicate, last, event_type=VIEWS.routing_key)

        async with Redis.from_url(servers.redis.url) as redis:

            async def all_are_added() -> bool:
                return int(await redis.get(popularity_key(place)) or 0) >= 7

            await wait_until(all_are_added, "all views are added")
            assert int(await redis.get(popularity_key(place)) or 0) == 7

    async def test_redis_outage_loses_no_views(
        self, start: StartProcess, servers: Devstack, broker: AbstractChannel, place: int
    ) -> None:
        """While Redis is unavailable, views wait in the worker. They are added after the outage."""
        process = await start_worker(start)
        servers.redis.kill()
        try:
            await publish(
                broker, encode(BriefViewed.create(ViewCounts(views={place: 3}))), event_type=VIEWS.routing_key
            )
            await process.wait_for_output("handler failed, retrying")
        finally:
            await servers.redis.start()

        async with Redis.from_url(servers.redis.url) as redis:

            async def are_added() -> bool:
                return int(await redis.get(popularity_key(place)) or 0) == 3

            await wait_until(are_added, "the views are added")


class TestProcess:
    @pytest.mark.parametrize("number", [SIGTERM, SIGINT, SIGHUP])
    async def test_signal_stops_cleanly(
        self, start: StartProcess, servers: Devstack, instance: str, number: Signals
    ) -> None:
        """A signal stops the worker: all entries exit in reverse order, and no server has a connection."""
        process = await start_worker(start)
        process.send_signal(number)

        assert await process.exit_status() == ExitStatus.OK
        exited = [event.split()[1] for event in process.events if event.startswith("exited ")]
        assert exited == ["cleanup", "views", "observations", "rabbitmq", "redis", "database"]
        await assert_no_server_leaks(servers, instance)

    async def test_second_signal_forces_the_shutdown(
        self, start: StartProcess, servers: Devstack, instance: str
    ) -> None:
        """A second signal aborts a close that hangs, long before its timeout."""
        process = await start_worker(start, GATEWAY_DATABASE__STOP_TIMEOUT="600", GATEWAY_SHUTDOWN_TIMEOUT="600")
        with servers.postgresql.suspended():
            process.send_signal(SIGTERM)
            await process.wait_for_output("exiting")
            process.send_signal(SIGTERM)

            assert await process.exit_status() == ExitStatus.FORCED

        await assert_no_server_leaks(servers, instance)

    async def test_signal_cancels_the_startup(self, start: StartProcess, servers: Devstack, instance: str) -> None:
        """A signal while a resource hangs in the startup cancels it, and everything is released."""
        with servers.redis.suspended():
            process = start("worker")
            await process.wait_for_output('"entry": "redis"')
            process.send_signal(SIGTERM)

            assert await process.exit_status() == ExitStatus.START_FAILED

        await assert_no_server_leaks(servers, instance)

    async def test_failed_start_is_explained(self, start: StartProcess) -> None:
        """If a resource does not start, the last line of the output names it and the reason."""
        process = start("worker", GATEWAY_REDIS__URL="redis://127.0.0.1:1/0", GATEWAY_REDIS__START_TIMEOUT="1")

        assert await process.exit_status() == ExitStatus.START_FAILED
        assert process.output.strip().splitlines()[-1].endswith("(not entered within 1 s)")

    async def test_bug_in_a_handler_stops_the_process(self, run: StartProcess, broker: AbstractChannel) -> None:
        """An error that no server reports crashes the consumer and stops the worker. The message stays in the queue."""
        process = run("-c", BROKEN_WORKER, "worker")
        await process.wait_for_output('"event": "working"')
        await publish(broker, *observation_messages(1))

        assert await process.exit_status() == ExitStatus.CRASHED
        assert "crashed observations" in process.events
        assert await message_count(broker, OBSERVATIONS.name) == 1

    async def test_missing_table_stops_no_process(
        self, start: StartProcess, broker: AbstractChannel, empty_database: str
    ) -> None:
        """While a migration is in progress, an observation waits in the worker. It is counted afterwards."""
        await migrate(empty_database)
        process = await start_worker(start, GATEWAY_DATABASE__URL=empty_database)
        async with transaction(empty_database, application_name="test") as connection:
            await connection.exec_driver_sql("ALTER TABLE consumed_events RENAME TO moved")
        await publish(broker, *observation_messages(1))
        await process.wait_for_output("handler failed, retrying")
        async with transaction(empty_database, application_name="test") as connection:
            await connection.exec_driver_sql("ALTER TABLE moved RENAME TO consumed_events")

        async def is_counted() -> bool:
            async with transaction(empty_database, application_name="test") as connection:
                return bool(await connection.scalar(select(func.count()).select_from(consumed_events)))

        await wait_until(is_counted, "the event is counted")
        process.send_signal(SIGTERM)
        assert await process.exit_status() == ExitStatus.OK

    async def test_heartbeat_file(self, start: StartProcess, tmp_path: Path) -> None:
        """The heartbeat file is touched again and again while the worker runs, and removed when it stops."""
        heartbeat = tmp_path / "heartbeat"
        process = await start_worker(start, "--alive", str(heartbeat))
        first = heartbeat.stat().st_mtime

        async def touched() -> bool:
            return heartbeat.stat().st_mtime > first

        await wait_until(touched, "the file is touched again")
        process.send_signal(SIGTERM)
        await process.exit_status()

        assert not heartbeat.exists()
