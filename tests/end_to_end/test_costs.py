"""What a hundred briefs cost, message by message on the wire: counts that do not depend on the clock, so they are exact."""

import asyncio
from collections import Counter

import pytest

from faultlab.wire import Proxy
from gateway.devstack.stack import Devstack
from gateway.settings import Settings
from tests.end_to_end.harness import Running, flush_redis, running
from tests.support.proxied import proxied
from tests.support.waiting import TIMEOUT, wait_until

HUNDRED = 100

IN_A_ROW = 4
"""So many times without a question for types, and each connection has asked."""

STATEMENT = ["Bind", "Execute", "Sync", "BindComplete", "CommandComplete", "ReadyForQuery"]
"""What passes for a statement that was prepared before, but for its rows: one for each place."""

EVENT = ["Basic.Publish", "ContentHeader", "ContentBody", "Basic.Ack"]


class Costs:
    """The messages that pass the proxies from now on."""

    def __init__(self, proxies: dict[str, Proxy], publish_views: asyncio.Event) -> None:
        self._proxies = proxies
        self._publish_views = publish_views
        self._before = {resource: _passed(proxy) for resource, proxy in proxies.items()}

    def of(self, resource: str) -> Counter[str]:
        """How many of each there were between us and that resource."""
        return _passed(self._proxies[resource]) - self._before[resource]

    async def are_complete(self) -> None:
        """Let the views be published, and wait for that: it is the last message."""
        self._publish_views.set()
        await wait_until(lambda: self.of("rabbitmq")["Basic.Ack"] > 0, "the views are published")


def _passed(proxy: Proxy) -> Counter[str]:
    return Counter(message for connection in proxy.connections for message in connection.messages)


@pytest.fixture
def publish_views(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Each time that this event is set, the gateway publishes the views so far, instead of four times a second."""
    publish = asyncio.Event()

    async def until_published_or_stopping(stopping: asyncio.Event, *, timeout: float) -> None:
        del timeout
        waits = {asyncio.create_task(event.wait()) for event in (publish, stopping)}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        publish.clear()

    monkeypatch.setattr("gateway.briefs.view_publisher.wait_for_event", until_published_or_stopping)
    return publish


async def test_a_hundred_briefs_at_once_cost_a_statement_a_command_and_an_event(
    servers: Devstack, settings: Settings, monkeypatch: pytest.MonkeyPatch, publish_views: asyncio.Event
) -> None:
    monkeypatch.setattr("gateway.observations.relay.POLL", 60)  # else it looks into the outbox at any time
    # A busy machine must not lose cached weather to the timeout of the write.
    monkeypatch.setattr("gateway.briefs.weather_cache.KEEP_WITHIN", TIMEOUT)
    await flush_redis(servers)  # so that the weather upstream is called
    async with (
        proxied(servers) as proxied_servers,
        running(proxied_servers.route(settings.model_copy(update={"brief_timeout": TIMEOUT}))) as gateway,
    ):
        proxies = proxied_servers.proxies
        paths = await briefs_of_a_hundred_places(gateway)

        cold = Costs(proxies, publish_views)
        await ask_at_once(gateway, paths)
        await wait_until(lambda: cold.of("redis")["reply to SET"] >= HUNDRED, "the weather is kept")
        await cold.are_complete()
        assert cold.of("http")["request head"] == HUNDRED
        assert cold.of("redis")["MGET"] == 1
        assert cold.of("redis")["SET"] == HUNDRED

        # asyncpg asks for types once on each connection, and the pool takes one after the other.
        in_a_row = 0
        while in_a_row < IN_A_ROW:
            warming = Costs(proxies, publish_views)
            await ask_at_once(gateway, paths)
            await warming.are_complete()
            in_a_row = 0 if warming.of("database")["Parse"] else in_a_row + 1

        warm = Costs(proxies, publish_views)
        await ask_at_once(gateway, paths)
        await warm.are_complete()
        assert warm.of("http") == Counter()
        assert warm.of("database") == Counter(STATEMENT + HUNDRED * ["DataRow"])
        assert warm.of("redis") == Counter(["MGET", "reply to MGET"])
        assert warm.of("rabbitmq") == Counter(EVENT)


async def briefs_of_a_hundred_places(gateway: Running) -> list[str]:
    places = (await gateway.client.get("/v1/places", params={"limit": HUNDRED})).json()["items"]
    assert len(places) == HUNDRED
    return [f"/v1/places/{place['id']}/brief" for place in places]


async def ask_at_once(gateway: Running, paths: list[str]) -> None:
    answers = await asyncio.gather(*(gateway.client.get(path) for path in paths))
    assert {answer.headers["Gateway-Complete"] for answer in answers} == {"true"}
