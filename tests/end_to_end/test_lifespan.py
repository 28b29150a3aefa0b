"""The lifespan on real servers: what was entered is released in reverse, and no server holds anything of it any more."""

import asyncio
import time
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.devstack.server import Server
from gateway.devstack.stack import Devstack
from gateway.lifecycle import StartError, StartTimeoutError, TeardownError
from gateway.resources.opening import PermanentError
from gateway.settings import Settings
from tests.end_to_end.running import ORDER, ZURICH, assert_nothing_is_held, held, running, told


def with_setting(settings: Settings, resource: str, **changes: object) -> Settings:
    """The settings with some of one resource's changed, and validated again."""
    group = getattr(settings, resource)
    return settings.model_copy(update={resource: type(group)(**(dict(group) | changes))})


async def test_what_is_entered_is_exited_in_reverse_and_nothing_is_held(
    servers: Devstack, settings: Settings, instance: str
) -> None:
    async with running(settings) as gateway:
        await gateway.client.get(f"/v1/places/{ZURICH}/brief")
        during = await held(servers, instance)

    assert {name.split()[0] for name in during} == {"postgresql", "redis", "rabbitmq"}
    assert told(gateway.stack.journal) == [
        *(f"{step} {name}" for name in ORDER for step in ("entering", "entered")),
        "started",
        "stopping",
        *(f"{step} {name}" for name in reversed(ORDER) for step in ("exiting", "exited")),
        "stopped",
    ]
    await assert_nothing_is_held(servers, instance)


PERMANENT = {
    "wrong database password": (
        "database",
        "postgresql+asyncpg://gateway:wrong@{database}/gateway",
        "user or password",
    ),
    "unknown database": ("database", "{database_credentials}@{database}/nowhere", "no such database"),
    "a database that was not migrated": ("database", "{empty}", "gateway migrate"),
    "wrong Redis password": ("redis", "redis://gateway:wrong@{redis}/0", "user, password"),
    "unknown Redis database": ("redis", "{redis_credentials}@{redis}/9999", "database number"),
    "wrong RabbitMQ password": ("rabbitmq", "amqp://gateway:wrong@{rabbitmq}/gateway", "user or password"),
    "unknown vhost": ("rabbitmq", "{rabbitmq_credentials}@{rabbitmq}/nowhere", "virtual host"),
}


@pytest.mark.parametrize("fault", PERMANENT)
async def test_what_a_person_has_to_mend_fails_at_once_and_gives_everything_back(
    servers: Devstack, settings: Settings, instance: str, empty_database: str, fault: str
) -> None:
    resource, template, advice = PERMANENT[fault]
    parts = {"empty": empty_database}
    for name in ("database", "redis", "rabbitmq"):
        credentials, _, rest = getattr(settings, name).url.get_secret_value().partition("@")
        parts |= {name: rest.partition("/")[0], f"{name}_credentials": credentials}
    broken = with_setting(settings, resource, url=template.format(**parts))
    began = time.monotonic()
    with pytest.raises(StartError) as caught:
        async with running(broken):
            pytest.fail("it started")

    assert caught.value.name == resource
    assert caught.value.entered == tuple(ORDER[: ORDER.index(resource)])
    assert isinstance(caught.value.__cause__, PermanentError)
    assert f"GATEWAY_{resource.upper()}__URL" in str(caught.value.__cause__)
    assert advice in str(caught.value.__cause__)
    assert time.monotonic() - began < 5
    await assert_nothing_is_held(servers, instance)


async def test_a_missing_model_fails_at_once_and_gives_everything_back(
    servers: Devstack, settings: Settings, instance: str
) -> None:
    with pytest.raises(StartError) as caught:
        async with running(with_setting(settings, "model", path=Path("nowhere.onnx"))):
            pytest.fail("it started")

    assert caught.value.entered == ("http", "database", "redis", "rabbitmq")
    assert "GATEWAY_MODEL__PATH" in str(caught.value.__cause__)
    await assert_nothing_is_held(servers, instance)


async def test_an_unreachable_weather_upstream_is_no_failed_startup(settings: Settings) -> None:
    async with running(with_setting(settings, "http", weather_url="http://127.0.0.1:1")) as gateway:
        readiness = (await gateway.client.get("/readyz")).json()

    assert readiness["status"] == "degraded"
    assert readiness["checks"]["http"]["status"] == "failed"


def server_of(servers: Devstack, resource: str) -> Server:
    return {"database": servers.postgresql, "redis": servers.redis, "rabbitmq": servers.rabbitmq}[resource]


@pytest.mark.parametrize("resource", ["database", "redis", "rabbitmq"])
async def test_a_server_that_does_not_answer_costs_its_deadline_and_no_more(
    servers: Devstack, settings: Settings, instance: str, resource: str
) -> None:
    impatient = with_setting(settings, resource, start_timeout=0.5, stop_timeout=0.5)
    began = time.monotonic()
    with server_of(servers, resource).suspended(), pytest.raises(StartError) as caught:
        async with running(impatient):
            pytest.fail("it started")

    assert time.monotonic() - began < 3
    assert caught.value.name == resource
    assert isinstance(caught.value.__cause__, StartTimeoutError)
    await assert_nothing_is_held(servers, instance)
    async with running(settings):  # an immediate restart works
        pass


@pytest.mark.parametrize("resource", ["database", "redis", "rabbitmq"])
async def test_a_server_that_is_down_is_waited_for(servers: Devstack, settings: Settings, resource: str) -> None:
    settings = settings.model_copy(update={"startup_timeout": 60})  # RabbitMQ takes its time
    server = server_of(servers, resource)
    await server.stop()
    entering = asyncio.create_task(_live(with_setting(settings, resource, start_timeout=60)))
    try:
        done, _ = await asyncio.wait({entering}, timeout=0.3)
        assert not done
    finally:
        await server.start()
    await entering


async def _live(settings: Settings) -> None:
    async with running(settings):
        pass


async def test_the_deadlines_error_says_what_was_in_the_way(settings: Settings) -> None:
    nobody = with_setting(settings, "redis", url="redis://127.0.0.1:1/0", start_timeout=0.3)
    with pytest.raises(StartError) as caught:
        async with running(nobody):
            pytest.fail("it started")

    assert isinstance(caught.value.__cause__, StartTimeoutError)
    assert "Connect call failed" in str(caught.value.__cause__.__cause__)


@pytest.mark.parametrize("resource", ["database", "redis", "rabbitmq"])
async def test_a_cancelled_start_gives_everything_back_and_is_cancelled(
    servers: Devstack, settings: Settings, instance: str, resource: str
) -> None:
    with server_of(servers, resource).suspended():
        start = asyncio.create_task(_live(settings))
        await asyncio.wait({start}, timeout=0.3)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
    await assert_nothing_is_held(servers, instance)


@pytest.mark.parametrize("resource", ["database", "redis", "rabbitmq"])
async def test_a_server_that_stops_answering_keeps_no_other_resource_open(
    servers: Devstack, settings: Settings, instance: str, resource: str
) -> None:
    impatient = with_setting(settings, resource, stop_timeout=0.5)
    server = server_of(servers, resource)
    began = 0.0
    with suppress(TeardownError):
        async with running(impatient) as gateway:
            await gateway.client.get(f"/v1/places/{ZURICH}/brief")
            server.suspend()
            began = time.monotonic()
    took = time.monotonic() - began
    server.resume()

    assert took < 2
    exits = [event.name for event in gateway.stack.journal if str(event.kind) == "exiting"]
    assert exits == list(reversed(ORDER))
    await assert_nothing_is_held(servers, instance)
