"""From a report to a count, through the real processes, whatever is killed on the way."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM, Signals

import aio_pika
import httpx
import pytest
from aio_pika.abc import AbstractChannel
from redis.asyncio import Redis
from sqlalchemy import select

from gateway.briefs.kept import popularity_key
from gateway.devstack.stack import Devstack
from gateway.events.messages import BriefViewed, ObservationRef, ObservationReported, ViewCounts, encode
from gateway.events.topology import DEAD_LETTERS, DELIVERY_LIMIT, OBSERVATIONS, VIEWS, declare
from gateway.places.seed import SHIPPED_TABLE, read
from gateway.schema.migrate import migrate
from gateway.schema.tables import places
from gateway.schema.transaction import transaction
from tests.end_to_end.conftest import Start
from tests.end_to_end.harness import Process, assert_no_server_leaks
from tests.events.conftest import vhost
from tests.support.waiting import wait_until

__all__ = ["vhost"]

RAIN = {"temperature_c": 12.5, "condition": "rain"}

_unused = (row[0] for row in list(read(SHIPPED_TABLE))[100:])


@pytest.fixture
def place() -> int:
    """A place that no other test looks at."""
    place_id: int = next(_unused)
    return place_id


@pytest.fixture
def environment(environment: dict[str, str], vhost: str) -> dict[str, str]:
    """With a virtual host of this test's own."""
    return environment | {"GATEWAY_RABBITMQ__URL": vhost}


@pytest.fixture
async def broker(vhost: str) -> AsyncIterator[AbstractChannel]:
    """A channel for the test to publish and to look with, everything declared."""
    async with await aio_pika.connect(vhost) as connection:
        channel = await connection.channel()
        await declare(channel)
        yield channel


async def worker(start: Start, *options: str, **variables: str) -> Process:
    """A worker at work."""
    process = start("worker", *options, **variables)
    for queue in (OBSERVATIONS.name, VIEWS.name):
        await process.wait_for_output(queue)  # "consuming"
    await process.wait_for_output('"event": "working"')
    return process


async def publish(channel: AbstractChannel, *bodies: bytes, kind: str = OBSERVATIONS.event) -> None:
    exchange = await channel.get_exchange("gateway.events")
    for body in bodies:
        await exchange.publish(aio_pika.Message(body, delivery_mode=2), kind)


def reported(place: int, times: int = 1) -> list[bytes]:
    return [encode(ObservationReported.now(ObservationRef(observation_id=n, place_id=place))) for n in range(times)]


async def counted(servers: Devstack, place: int) -> int:
    async with transaction(servers.postgresql.url, application_name="look") as connection:
        return await connection.scalar(select(places.c.observation_count).where(places.c.id == place)) or 0


async def counts(servers: Devstack, place: int, expected: int) -> None:
    """Wait until so many observations of the place were counted."""

    async def there_are() -> bool:
        return await counted(servers, place) >= expected

    await wait_until(there_are, f"{expected} are counted")
    assert await counted(servers, place) == expected


async def depth(channel: AbstractChannel, queue: str) -> int:
    return (await channel.declare_queue(queue, passive=True)).declaration_result.message_count or 0


async def buried(channel: AbstractChannel, count: int) -> None:
    async def there_are() -> bool:
        return await depth(channel, DEAD_LETTERS) == count

    await wait_until(there_are, f"there are {count} dead letters")


class TestAnObservation:
    async def test_that_was_reported_is_counted(self, start: Start, servers: Devstack, place: int) -> None:
        await worker(start)
        url = await start("serve", "--port", "0").url()
        async with httpx.AsyncClient(base_url=url) as client:
            response = await client.post(f"/v1/places/{place}/observations", json=RAIN)
            assert response.status_code == 201
            await counts(servers, place, 1)

            assert (await client.get(f"/v1/places/{place}")).json()["observation_count"] == 1

    async def test_delivered_twice_is_counted_once(
        self, start: Start, servers: Devstack, broker: AbstractChannel, place: int
    ) -> None:
        await worker(start)
        some = reported(place, 10)
        await publish(broker, *some, *some, *reversed(some))
        await publish(broker, *reported(place))
        await counts(servers, place, 11)

        async def worked_in() -> bool:
            return await depth(broker, OBSERVATIONS.name) == 0

        await wait_until(worked_in, "all is worked in")
        assert await counted(servers, place) == 11

    async def test_is_accepted_while_rabbitmq_is_away_and_counted_once_it_is_back(
        self, start: Start, servers: Devstack, place: int
    ) -> None:
        working = await worker(start)
        url = await start("serve", "--port", "0").url()
        async with httpx.AsyncClient(base_url=url) as client:
            statuses: list[int] = []

            async def report(times: int) -> None:
                for _ in range(times):
                    response = await client.post(f"/v1/places/{place}/observations", json=RAIN)
                    statuses.append(response.status_code)

            async def relay_says(text: str) -> bool:
                checks = (await client.get("/readyz")).json()["checks"]
                return text in (checks["relay"]["remark"] or "")

            await report(5)
            await servers.rabbitmq.sync()
            writing = asyncio.create_task(report(40))
            servers.rabbitmq.kill()
            try:
                await writing
                await report(5)
                await wait_until(lambda: relay_says(" waiting, trying again"), "the depth is in the health details")
                assert not await relay_says("outbox: 0 waiting")
            finally:
                await servers.rabbitmq.start()
            await counts(servers, place, 50)
            await wait_until(lambda: relay_says("outbox: 0 waiting, dead letters: 0"), "the outbox is empty")

        assert statuses == [201] * 50
        assert "crashed" not in working.output

    async def test_is_counted_once_though_the_worker_is_killed_again_and_again(
        self, start: Start, servers: Devstack, broker: AbstractChannel, place: int
    ) -> None:
        for round_ in range(3):
            process = await worker(start)
            await publish(broker, *reported(place, 100))
            least = round_ * 100 + 20

            async def some_are_counted(least: int = least) -> bool:
                return await counted(servers, place) >= least

            await wait_until(some_are_counted, "some are counted")
            process.send_signal(SIGKILL)
            await process.exit_status()
        await worker(start)

        await counts(servers, place, 300)
        assert await depth(broker, DEAD_LETTERS) == 0

    @pytest.mark.parametrize("how", ["SIGKILL", "SIGSTOP"])
    async def test_waits_for_a_database_that_is_away_and_is_not_buried(
        self, start: Start, servers: Devstack, broker: AbstractChannel, place: int, how: str
    ) -> None:
        process = await worker(start)
        if how == "SIGKILL":
            servers.postgresql.kill()
        else:
            servers.postgresql.suspend()
        try:
            await publish(broker, *reported(place, 2 * DELIVERY_LIMIT))
            await process.wait_for_output("an event has to wait")
        finally:
            if how == "SIGKILL":
                await servers.postgresql.start()
            else:
                servers.postgresql.resume()

        await counts(servers, place, 2 * DELIVERY_LIMIT)
        assert await depth(broker, DEAD_LETTERS) == 0

    async def test_that_is_poison_is_buried_and_the_next_is_counted(
        self, start: Start, servers: Devstack, broker: AbstractChannel, place: int
    ) -> None:
        process = await worker(start)
        await publish(
            broker, b"not JSON", b'{"type": "unknown"}', encode(BriefViewed.now(ViewCounts(views={place: 1})))
        )
        await publish(broker, *reported(place))

        await counts(servers, place, 1)
        await buried(broker, 3)
        assert process.output.count("a message is poison") == 3
        assert "not JSON" not in process.output


class TestViews:
    async def test_are_added_once_for_each_event(
        self, start: Start, servers: Devstack, broker: AbstractChannel, place: int
    ) -> None:
        await worker(start)
        twice = encode(BriefViewed.now(ViewCounts(views={place: 3})))
        last = encode(BriefViewed.now(ViewCounts(views={place: 4})))
        await publish(broker, twice, twice, last, kind=VIEWS.event)

        async with Redis.from_url(servers.redis.url) as redis:

            async def all_are_added() -> bool:
                return int(await redis.get(popularity_key(place)) or 0) >= 7

            await wait_until(all_are_added, "all are added")
            assert int(await redis.get(popularity_key(place)) or 0) == 7

    async def test_wait_for_a_redis_that_is_away(
        self, start: Start, servers: Devstack, broker: AbstractChannel, place: int
    ) -> None:
        process = await worker(start)
        servers.redis.kill()
        try:
            await publish(broker, encode(BriefViewed.now(ViewCounts(views={place: 3}))), kind=VIEWS.event)
            await process.wait_for_output("an event has to wait")
        finally:
            await servers.redis.start()

        async with Redis.from_url(servers.redis.url) as redis:

            async def are_added() -> bool:
                return int(await redis.get(popularity_key(place)) or 0) == 3

            await wait_until(are_added, "they are added")


class TestTheProcess:
    @pytest.mark.parametrize("number", [SIGTERM, SIGINT])
    async def test_stops_cleanly_at_a_signal(
        self, start: Start, servers: Devstack, instance: str, number: Signals
    ) -> None:
        process = await worker(start)
        process.send_signal(number)

        assert await process.exit_status() == 0
        exited = [event.split()[1] for event in process.events if event.startswith("exited ")]
        assert exited == ["cleanup", "views", "observations", "rabbitmq", "redis", "database"]
        await assert_no_server_leaks(servers, instance)

    async def test_is_forced_by_a_second_signal(self, start: Start, servers: Devstack, instance: str) -> None:
        process = await worker(start, GATEWAY_DATABASE__STOP_TIMEOUT="600", GATEWAY_SHUTDOWN_TIMEOUT="600")
        with servers.postgresql.suspended():
            process.send_signal(SIGTERM)
            await process.wait_for_output("exiting")
            process.send_signal(SIGTERM)
            assert await process.exit_status() == 130  # long before the stop would time out
        await assert_no_server_leaks(servers, instance)

    async def test_gives_everything_back_when_it_is_stopped_while_it_starts(
        self, start: Start, servers: Devstack, instance: str
    ) -> None:
        with servers.redis.suspended():
            process = start("worker")
            await process.wait_for_output('"entry": "redis"')
            process.send_signal(SIGTERM)
            assert await process.exit_status() == 3
        await assert_no_server_leaks(servers, instance)

    async def test_that_cannot_start_says_why_in_one_line(self, start: Start) -> None:
        process = start("worker", GATEWAY_REDIS__URL="redis://127.0.0.1:1/0", GATEWAY_REDIS__START_TIMEOUT="1")

        assert await process.exit_status() == 3
        assert process.output.strip().splitlines()[-1].startswith("gateway: redis: not entered within 1 s")

    async def test_ends_when_what_it_does_is_broken(
        self, start: Start, broker: AbstractChannel, empty_database: str
    ) -> None:
        await migrate(empty_database)
        process = await worker(start, GATEWAY_DATABASE__URL=empty_database)
        async with transaction(empty_database, application_name="break") as connection:
            await connection.exec_driver_sql("DROP TABLE consumed_events")
        await publish(broker, *reported(1))

        assert await process.exit_status() == 1
        assert "crashed observations" in process.events
        assert await depth(broker, OBSERVATIONS.name) == 1

    async def test_shows_that_it_is_alive_as_long_as_it_is(self, start: Start, tmp_path: Path) -> None:
        alive = tmp_path / "alive"
        process = await worker(start, "--alive", str(alive))
        first = alive.stat().st_mtime

        async def touched() -> bool:
            return alive.stat().st_mtime > first

        await wait_until(touched, "it is touched again")
        process.send_signal(SIGTERM)
        await process.exit_status()
        assert not alive.exists()
