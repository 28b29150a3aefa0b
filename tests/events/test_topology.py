"""Refusals of the broker: other arguments, missing rights and alarms are reported, and one queue's trouble is not another's."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import uuid4

import pytest
from aio_pika import Message
from aio_pika.abc import AbstractChannel
from structlog.testing import capture_logs

from gateway.briefs.view_publisher import ViewPublisher
from gateway.devstack.rabbitmq import RabbitMQServer
from gateway.events.channels import open_channel
from gateway.events.consumer import Consumer
from gateway.events.messages import BriefViewed, Event, ObservationRef, ObservationReported, ViewCounts, encode
from gateway.events.publisher import Publisher, PublishError
from gateway.events.topology import (
    DEAD_LETTERS,
    EXCHANGE,
    OBSERVATIONS,
    QUEUES,
    VIEWS,
    Queue,
    declare,
    verify_publishing,
)
from gateway.resources.base import DegradedError, PermanentError
from gateway.resources.rabbitmq import RabbitMQ, RabbitMQConnection
from gateway.settings import RabbitMQSettings
from tests.events.conftest import replace_queue
from tests.support.waiting import TIMEOUT, wait_until

EVERYTHING, NOTHING = ".*", "^$"

AddUser = Callable[[str, str, str], Awaitable[str]]  # configure, write, read


@pytest.fixture
async def add_user(rabbitmq_server: RabbitMQServer, vhost: str) -> AsyncIterator[AddUser]:
    """A function that creates a user with some rights, and returns its URL."""
    names = []

    async def add(configure: str, write: str, read: str) -> str:
        names.append(f"user-{secrets.token_hex(4)}")
        name = vhost.rpartition("/")[2]
        return await rabbitmq_server.add_user(names[-1], name, configure=configure, write=write, read=read)

    yield add
    for name in names:
        await rabbitmq_server.delete_user(name)


@asynccontextmanager
async def connected(url: str, *, verify: bool = False) -> AsyncIterator[RabbitMQ]:
    settings = RabbitMQSettings.model_validate({"url": url})
    connection = RabbitMQConnection(settings, "test", verify=verify_publishing if verify else None)
    async with asyncio.timeout(TIMEOUT), connection.open() as rabbitmq:
        yield rabbitmq


async def redeclare(channel: AbstractChannel, queue: Queue) -> None:
    """Replace a queue by one with other arguments, which gets the same events."""
    replacement = await replace_queue(channel, queue.name)
    await replacement.bind("gateway.events", queue.routing_key)


async def publish(publisher: Publisher, event_type: str) -> None:
    await publisher.publish(uuid4(), event_type, b"{}", timeout=TIMEOUT)


async def depth(channel: AbstractChannel, name: str) -> int | None:
    return (await channel.declare_queue(name, passive=True)).declaration_result.message_count


class Received(list[Event]):
    """A handler that records the events."""

    async def __call__(self, event: Event) -> None:
        self.append(event)


def observation_consumer(rabbitmq: RabbitMQ, handle: Received) -> Consumer[ObservationReported]:
    return Consumer(
        "observations",
        rabbitmq.connection,
        OBSERVATIONS,
        ObservationReported,
        handle,
        is_transient=lambda _: False,
        prefetch=1,
    )


def view_consumer(rabbitmq: RabbitMQ) -> Consumer[BriefViewed]:
    return Consumer(
        "views", rabbitmq.connection, VIEWS, BriefViewed, Received(), is_transient=lambda _: False, prefetch=1
    )


class TestStartup:
    async def test_new_broker(self, vhost: str) -> None:
        """On a new broker, everything that is missing is declared, and no channel is left."""
        async with connected(vhost, verify=True) as rabbitmq:
            transport = rabbitmq.connection.transport
            assert transport is not None
            assert not transport.connection.channels  # of the verification
            channel = await open_channel(rabbitmq.connection, confirms=False)
            for queue in QUEUES:
                await channel.declare_queue(queue.name, passive=True)

    @pytest.mark.parametrize("queue", QUEUES, ids=lambda queue: queue.name)
    async def test_other_arguments(self, vhost: str, channel: AbstractChannel, queue: Queue) -> None:
        """A queue with other arguments fails the startup at once, with the text of the broker and the advice."""
        await declare(channel)
        await redeclare(channel, queue)

        with pytest.raises(PermanentError, match=f"PRECONDITION_FAILED.*{queue.name}.*: delete it"):
            async with connected(vhost, verify=True):
                pass

    async def test_no_right_to_configure(self, channel: AbstractChannel, add_user: AddUser) -> None:
        """Without the right to configure, the startup succeeds if everything exists."""
        await declare(channel)
        async with connected(await add_user(NOTHING, r"^gateway\.events$", NOTHING), verify=True) as rabbitmq:
            await publish(Publisher(rabbitmq.connection, OBSERVATIONS), OBSERVATIONS.routing_key)

    async def test_no_right_to_create(self, add_user: AddUser) -> None:
        """Without the right to configure, what is missing fails the startup at once."""
        with pytest.raises(PermanentError, match=r"NOT_FOUND - no exchange 'gateway\.events'.*: declare it"):
            async with connected(await add_user(NOTHING, EVERYTHING, EVERYTHING), verify=True):
                pass

    async def test_no_right_to_publish(self, channel: AbstractChannel, add_user: AddUser) -> None:
        """Without the right to publish, the startup fails at once."""
        await declare(channel)

        with pytest.raises(
            PermanentError, match=r"ACCESS_REFUSED - (write )?access to exchange 'gateway\.events'.*: grant"
        ):
            async with connected(await add_user(NOTHING, NOTHING, NOTHING), verify=True):
                pass

    async def test_no_right_to_consume(self, channel: AbstractChannel, add_user: AddUser) -> None:
        """Without the right to read, the start of the consumer fails at once."""
        await declare(channel)
        async with connected(await add_user(EVERYTHING, EVERYTHING, NOTHING)) as rabbitmq:
            with pytest.raises(
                PermanentError, match=r"ACCESS_REFUSED - (read )?access to queue 'gateway\.observations'"
            ):
                async with observation_consumer(rabbitmq, Received()).open():
                    pass

    async def test_memory_alarm(self, rabbitmq_server: RabbitMQServer, vhost: str) -> None:
        """An alarm delays the startup by the time of the probe, and the health checks report it."""
        async with rabbitmq_server.memory_alarm(), connected(vhost, verify=True) as rabbitmq:
            with pytest.raises(DegradedError, match="0 dropped: blocked by an alarm of the broker: low on memory"):
                await ViewPublisher(rabbitmq.connection).check()
            with pytest.raises(PublishError) as error:
                await publish(Publisher(rabbitmq.connection, OBSERVATIONS), OBSERVATIONS.routing_key)
            assert "low on memory" in str(error.value.__cause__)


class TestRunning:
    @pytest.fixture(autouse=True)
    def patient_checks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Health checks that wait for the broker on a busy machine, too."""
        monkeypatch.setattr("gateway.events.publisher.CHECK_TIMEOUT", TIMEOUT)

    async def test_views_redeclared(self, rabbitmq: RabbitMQ, channel: AbstractChannel) -> None:
        """A queue of views with other arguments is reported, and observations are published and consumed as before."""
        received = Received()
        observations, views = Publisher(rabbitmq.connection, OBSERVATIONS), Publisher(rabbitmq.connection, VIEWS)
        consumer = view_consumer(rabbitmq)
        async with observation_consumer(rabbitmq, received).open(), consumer.open():
            assert await views.problem() is None
            await redeclare(channel, VIEWS)
            await wait_until(lambda: consumer.refusal is not None, "the consumer of views reports the refusal")
            with pytest.raises(PublishError):
                await publish(views, VIEWS.routing_key)
            event = ObservationReported.create(ObservationRef(observation_id=1, place_id=1))
            await observations.publish(event.id, event.type, encode(event), timeout=TIMEOUT)
            await wait_until(lambda: received == [event], "the observation is consumed")

            with pytest.raises(ConnectionError, match=r"PRECONDITION_FAILED.*gateway\.brief-views"):
                await consumer.check()
            assert "PRECONDITION_FAILED" in str(await views.problem())
            assert await observations.problem() is None

            await channel.queue_delete(VIEWS.name)
            await wait_until(lambda: consumer.refusal is None, "the consumer of views has recovered")
            assert await views.problem() is None
            await publish(views, VIEWS.routing_key)

    async def test_repeated_refusal_is_logged_once(self, rabbitmq: RabbitMQ, channel: AbstractChannel) -> None:
        """The consumer logs the first of many equal refusals, and their number when it consumes again."""
        consumer = view_consumer(rabbitmq)
        with capture_logs() as logs:
            async with consumer.open():
                await redeclare(channel, VIEWS)
                await wait_until(lambda: consumer._outage.count > 3, "the consumer has tried again")
                await channel.queue_delete(VIEWS.name)
                await wait_until(lambda: consumer.refusal is None, "the consumer of views has recovered")

        assert len([line for line in logs if "PRECONDITION_FAILED" in line.get("error", "")]) == 1
        assert [line["failures"] >= 3 for line in logs if line["event"] == "consuming"] == [False, True]

    async def test_idle_publisher(self, rabbitmq: RabbitMQ, channel: AbstractChannel) -> None:
        """The health check reports a queue with other arguments before an event is published."""
        await declare(channel)
        await redeclare(channel, VIEWS)

        with pytest.raises(DegradedError, match=r"0 dropped: PRECONDITION_FAILED.*gateway\.brief-views"):
            await ViewPublisher(rabbitmq.connection).check()

    async def test_missing_binding(
        self, channel: AbstractChannel, add_user: AddUser, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A binding that is missing, and that the user may not declare, is reported for a while after an event was returned."""
        await declare(channel)
        queue = await channel.declare_queue(VIEWS.name, passive=True)
        await queue.unbind("gateway.events", VIEWS.routing_key)
        async with connected(await add_user(NOTHING, EVERYTHING, NOTHING)) as rabbitmq:
            publisher = Publisher(rabbitmq.connection, VIEWS)
            with pytest.raises(PublishError):
                await publish(publisher, VIEWS.routing_key)

            assert "gateway.brief-views does not take events" in str(await publisher.problem())
            monkeypatch.setattr("gateway.events.publisher.REFUSAL_REPORT_TIME", 0)
            assert await publisher.problem() is None  # an operator may have bound it since

    async def test_refused_declarations_are_limited(
        self, rabbitmq: RabbitMQ, channel: AbstractChannel, rabbitmq_server: RabbitMQServer
    ) -> None:
        """Many events that wait for a refused declaration cause one attempt, because the broker logs each."""
        await declare(channel)
        await redeclare(channel, VIEWS)
        logged = rabbitmq_server.log.read_text().count("PRECONDITION_FAILED")
        publisher = Publisher(rabbitmq.connection, VIEWS)
        event = BriefViewed.create(ViewCounts(views={1: 1}))
        outcomes = await asyncio.gather(
            *(publisher.publish(event.id, event.type, encode(event), timeout=TIMEOUT) for _ in range(100)),
            return_exceptions=True,
        )

        assert {type(outcome) for outcome in outcomes} == {PublishError}
        attempts = rabbitmq_server.log.read_text().count("PRECONDITION_FAILED") - logged
        assert attempts < 10  # one, and more on a machine that is busy for seconds


class TestViews:
    # RabbitMQ 4.3 adds the size of the properties to that of the body.
    @pytest.mark.parametrize(("limit", "value"), [("x-max-length", 3), ("x-max-length-bytes", 35_000)])
    async def test_length_limit(self, rabbitmq: RabbitMQ, channel: AbstractChannel, limit: str, value: int) -> None:
        """Without a worker, the oldest views are dropped at a limit; they are no dead letters, and observations are published."""
        assert value < int(VIEWS.arguments[limit])
        views = Publisher(rabbitmq.connection, replace(VIEWS, arguments={**VIEWS.arguments, limit: value}))
        ids = [uuid4() for _ in range(5)]
        for event_id in ids:
            await views.publish(event_id, VIEWS.routing_key, b"x" * 10_000, timeout=TIMEOUT)
        await publish(Publisher(rabbitmq.connection, OBSERVATIONS), OBSERVATIONS.routing_key)

        queue = await channel.declare_queue(VIEWS.name, passive=True)
        assert [(await queue.get()).message_id for _ in range(3)] == [str(event_id) for event_id in ids[2:]]
        assert await queue.get(fail=False) is None
        assert await depth(channel, DEAD_LETTERS) == 0
        assert await depth(channel, OBSERVATIONS.name) == 1

    async def test_expiry(self, rabbitmq: RabbitMQ, channel: AbstractChannel) -> None:
        """Views that no worker consumes in time are removed, and are no dead letters."""
        assert int(VIEWS.arguments["x-message-ttl"]) > 1000
        short_lived = replace(VIEWS, arguments={**VIEWS.arguments, "x-message-ttl": 200})
        await publish(Publisher(rabbitmq.connection, short_lived), VIEWS.routing_key)

        async def is_empty() -> bool:
            return await depth(channel, VIEWS.name) == 0

        await wait_until(is_empty, "the views have expired")
        assert await depth(channel, DEAD_LETTERS) == 0

    async def test_poison_is_dropped(self, rabbitmq: RabbitMQ, channel: AbstractChannel) -> None:
        """An invalid event in the queue of views is logged and dropped. It is no dead letter."""
        await declare(channel)
        consumer = view_consumer(rabbitmq)
        with capture_logs() as logs:
            async with consumer.open():
                await publish(Publisher(rabbitmq.connection, VIEWS), VIEWS.routing_key)
                await wait_until(lambda: consumer.rejected == 1, "the event is rejected")

        assert await depth(channel, VIEWS.name) == 0
        assert await depth(channel, DEAD_LETTERS) == 0
        assert "poison message rejected" in [line["event"] for line in logs]

    async def test_upgrade(self, rabbitmq: RabbitMQ, channel: AbstractChannel) -> None:
        """The queue of the previous version keeps its events and gets no more, also after that version has bound it again."""
        exchange = await channel.declare_exchange(EXCHANGE, "topic", durable=True)

        async def start_previous_version() -> None:
            queue = await channel.declare_queue("gateway.views", durable=True, arguments={**OBSERVATIONS.arguments})
            await queue.bind(exchange, VIEWS.routing_key)

        await start_previous_version()
        await exchange.publish(Message(b"{}"), VIEWS.routing_key)
        publisher = Publisher(rabbitmq.connection, VIEWS)
        await publish(publisher, VIEWS.routing_key)
        assert (await depth(channel, "gateway.views"), await depth(channel, VIEWS.name)) == (1, 1)

        await start_previous_version()
        assert await publisher.problem() is None  # the health check declares everything again
        await publish(publisher, VIEWS.routing_key)
        assert (await depth(channel, "gateway.views"), await depth(channel, VIEWS.name)) == (1, 2)
