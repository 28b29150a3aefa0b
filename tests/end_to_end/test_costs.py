"""The cost of 100 concurrent briefs, in messages on the wire. The counts do not depend on the clock, so they are exact."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from math import ceil

import pytest

from faultlab.wire import Proxy
from gateway.briefs.places_per_call import MAX_PLACES_PER_CALL
from gateway.devstack.stack import Devstack
from gateway.settings import Settings
from tests.end_to_end.harness import RunningGateway, flush_redis, running_gateway
from tests.support.proxied import proxied
from tests.support.waiting import TIMEOUT, wait_until

PLACES = 100
COLD_CALLS = ceil(PLACES / MAX_PLACES_PER_CALL)
WARM_ROUNDS = 4  # rounds in a row without Parse, after which every pooled connection has loaded the types

# The messages of a prepared statement without its rows, and of a published event.
STATEMENT = ["Bind", "Execute", "Sync", "BindComplete", "CommandComplete", "ReadyForQuery"]
EVENT = ["Basic.Publish", "ContentHeader", "ContentBody", "Basic.Ack"]


class MessageCounts:
    """The number of messages that pass the proxies after this object is created, by resource and type of message."""

    def __init__(self, proxies: dict[str, Proxy]) -> None:
        self._proxies = proxies
        self._before = {resource: _count_messages(proxy) for resource, proxy in proxies.items()}

    def __getitem__(self, resource: str) -> Counter[str]:
        return _count_messages(self._proxies[resource]) - self._before[resource]


def _count_messages(proxy: Proxy) -> Counter[str]:
    messages = (message for connection in proxy.connections for message in connection.messages)
    return Counter(message for message in messages if message != "Heartbeat")  # only those depend on the clock


@dataclass
class MeasuredGateway:
    """A gateway that reaches its servers through proxies, and publishes the views after each round of briefs."""

    gateway: RunningGateway
    proxies: dict[str, Proxy]
    paths: list[str]
    publish_views: asyncio.Event

    async def request_all_briefs(self) -> MessageCounts:
        """Request all briefs at the same time, publish their views, and return the counts of the messages since the start."""
        counts = MessageCounts(self.proxies)
        responses = await asyncio.gather(*(self.gateway.client.get(path) for path in self.paths))
        assert {response.headers["Gateway-Complete"] for response in responses} == {"true"}
        self.publish_views.set()
        await wait_until(lambda: counts["rabbitmq"]["Basic.Ack"] > 0, "the views are published")
        return counts


@pytest.fixture
def publish_views(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """An event. The gateway publishes the views each time it is set, instead of four times a second."""
    publish = asyncio.Event()

    async def wait_for_either_event(stopping: asyncio.Event, *, timeout: float) -> None:
        del timeout
        waits = {asyncio.create_task(event.wait()) for event in (publish, stopping)}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        publish.clear()

    monkeypatch.setattr("gateway.briefs.view_publisher.wait_for_event", wait_for_either_event)
    return publish


@pytest.fixture
async def measured(
    servers: Devstack, settings: Settings, monkeypatch: pytest.MonkeyPatch, publish_views: asyncio.Event
) -> AsyncIterator[MeasuredGateway]:
    """A gateway without cached weather, whose other background work sends no messages during a test."""
    # The relay must not poll the outbox during a measurement.
    monkeypatch.setattr("gateway.observations.relay.POLL_INTERVAL", 60)
    # A busy machine must not lose cached weather to the timeout of the write.
    monkeypatch.setattr("gateway.briefs.weather_cache.CACHE_WRITE_TIMEOUT", TIMEOUT)
    await flush_redis(servers)  # upstream must be called
    async with (
        proxied(servers) as proxied_servers,
        running_gateway(proxied_servers.route(settings.model_copy(update={"brief_timeout": TIMEOUT}))) as gateway,
    ):
        places = (await gateway.client.get("/v1/places", params={"limit": PLACES})).json()["items"]
        assert len(places) == PLACES
        paths = [f"/v1/places/{place['id']}/brief" for place in places]
        yield MeasuredGateway(gateway, proxied_servers.proxies, paths, publish_views)


async def warm_up(measured: MeasuredGateway) -> None:
    """Request briefs until every pooled connection is used: asyncpg loads types once on each, and the pool rotates them."""
    warm_rounds = 0
    while warm_rounds < WARM_ROUNDS:
        counts = await measured.request_all_briefs()
        warm_rounds = 0 if counts["database"]["Parse"] else warm_rounds + 1


async def test_cost_of_uncached_briefs(measured: MeasuredGateway) -> None:
    """Without cached weather, 100 briefs cost one read of the cache, and a call of the upstream and a write for each 50 places."""
    cold = await measured.request_all_briefs()
    await wait_until(lambda: cold["redis"]["reply to EVAL"] >= COLD_CALLS, "the weather is cached")

    assert cold["http"]["request head"] == COLD_CALLS
    assert cold["redis"]["MGET"] == 1
    assert cold["redis"]["EVAL"] == COLD_CALLS


async def test_cost_of_cached_briefs(measured: MeasuredGateway) -> None:
    """With cached weather, 100 briefs cost one statement, one Redis command and one event, and no call of upstream."""
    cold = await measured.request_all_briefs()
    await wait_until(lambda: cold["redis"]["reply to EVAL"] >= COLD_CALLS, "the weather is cached")
    await warm_up(measured)

    warm = await measured.request_all_briefs()

    assert warm["http"] == Counter()
    assert warm["database"] == Counter(STATEMENT + PLACES * ["DataRow"])
    assert warm["redis"] == Counter(["MGET", "reply to MGET"])
    assert warm["rabbitmq"] == Counter(EVENT)
