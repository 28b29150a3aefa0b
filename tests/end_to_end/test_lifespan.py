"""The lifespan on real servers, without a fault. The lifespan with faults is in tests/faults."""

from gateway.devstack.stack import Devstack
from gateway.settings import HttpSettings, Settings
from tests.end_to_end.harness import (
    ZURICH,
    assert_no_server_leaks,
    event_sequence,
    open_connections,
    running_gateway,
)
from tests.support.entries import BY_NAME, CONNECTED, ENTRIES


async def test_entries_exit_in_reverse_order(servers: Devstack, settings: Settings, instance: str) -> None:
    """The lifespan enters its entries in order and exits them in reverse. Afterwards no server has its connections."""
    async with running_gateway(settings) as gateway:
        await gateway.client.get(f"/v1/places/{ZURICH}/brief")
        connections = await open_connections(servers, instance)

    assert {connection.split()[0] for connection in connections} == {BY_NAME[entry].server for entry in CONNECTED}
    assert event_sequence(gateway.stack.journal) == [
        *(f"{step} {name}" for name in ENTRIES for step in ("entering", "entered")),
        "started",
        "stopping",
        *(f"{step} {name}" for name in reversed(ENTRIES) for step in ("exiting", "exited")),
        "stopped",
    ]
    await assert_no_server_leaks(servers, instance)


async def test_start_without_weather_upstream(settings: Settings) -> None:
    """The gateway starts without its weather upstream; its readiness is degraded."""
    unreachable = HttpSettings.model_validate({"weather_url": "http://127.0.0.1:1"})
    async with running_gateway(settings.model_copy(update={"http": unreachable})) as gateway:
        readiness = (await gateway.client.get("/readyz")).json()

    assert readiness["status"] == "degraded"
    assert readiness["checks"]["http"]["status"] == "failed"
