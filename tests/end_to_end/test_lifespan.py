"""The lifespan on real servers, when all goes well. What happens when it does not: tests/faults."""

from gateway.devstack.stack import Devstack
from gateway.settings import HttpSettings, Settings
from tests.end_to_end.harness import (
    ENTRY_ORDER,
    ZURICH,
    assert_no_server_leaks,
    event_sequence,
    open_connections,
    running,
)


async def test_what_is_entered_is_exited_in_reverse_and_nothing_is_held(
    servers: Devstack, settings: Settings, instance: str
) -> None:
    async with running(settings) as gateway:
        await gateway.client.get(f"/v1/places/{ZURICH}/brief")
        during = await open_connections(servers, instance)

    assert {name.split()[0] for name in during} == {"postgresql", "redis", "rabbitmq"}
    assert event_sequence(gateway.stack.journal) == [
        *(f"{step} {name}" for name in ENTRY_ORDER for step in ("entering", "entered")),
        "started",
        "stopping",
        *(f"{step} {name}" for name in reversed(ENTRY_ORDER) for step in ("exiting", "exited")),
        "stopped",
    ]
    await assert_no_server_leaks(servers, instance)


async def test_an_unreachable_weather_upstream_is_no_failed_startup(settings: Settings) -> None:
    nobody = HttpSettings.model_validate({"weather_url": "http://127.0.0.1:1"})
    async with running(settings.model_copy(update={"http": nobody})) as gateway:
        readiness = (await gateway.client.get("/readyz")).json()

    assert readiness["status"] == "degraded"
    assert readiness["checks"]["http"]["status"] == "failed"
