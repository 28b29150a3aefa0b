"""The lab's teeth: it convicts each specimen where its mistake shows, names what leaks, and clears the cure."""

from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

from tests.faultlab.cli_result import Examine


@dataclass(frozen=True)
class Specimen:
    """What the lab has to say of it."""

    name: str
    phase: str
    leak: str
    """`{redis}` and the like are the servers' addresses."""
    acquired: str = ""
    """In which function."""
    options: tuple[str, ...] = ()


SPECIMENS = [
    Specimen("missing_finally", "teardown", "socket to {redis}", "naive_lifespan"),
    Specimen("startup_order", "no fault", "socket to {redis}", "count"),
    Specimen("tutorial", "startup", "socket to {redis}", "naive_lifespan"),
    Specimen(
        "shared_deadline", "stopped while no server answers", "socket to {postgresql}", "naive_lifespan", ("--silence",)
    ),
    Specimen("robust_under_timeout", "startup", "socket to {rabbitmq}", "naive_lifespan"),
    Specimen("swallowed_cancellation", "teardown", "it was cancelled, and went on as if it had not been"),
    Specimen(
        "session_outlives_engine",
        "stopped during a request",
        "unclosed connection <asyncpg.connection.Connection",
        options=("--request", "/report"),
    ),
    Specimen("client_at_import", "no fault", "socket to {redis}", "naive_lifespan"),
    Specimen("forgotten_close", "no fault", "socket to {redis}", "naive_client"),
]
each = pytest.mark.parametrize("specimen", SPECIMENS, ids=lambda specimen: specimen.name)

AT_ONCE = 0.03
"""Seconds to settle: a naive app is guilty at dozens of points, and at each of them the lab waits for what never ends."""


def addresses(urls: dict[str, str]) -> dict[str, str]:
    named = {"redis": "REDIS_URL", "rabbitmq": "RABBITMQ_URL", "postgresql": "POSTGRESQL_URL"}
    parts = {name: urlsplit(urls[variable]) for name, variable in named.items()}
    return {name: f"{part.hostname}:{part.port}" for name, part in parts.items()}


@each
def test_a_mistake_is_convicted_where_it_shows(specimen: Specimen, examine: Examine, urls: dict[str, str]) -> None:
    examined = examine(f"tests.faultlab.broken_apps.{specimen.name}:naive", *specimen.options, settle=AT_ONCE)
    shown = examined.phase(specimen.phase)

    assert examined.status == 1
    assert specimen.leak.format(**addresses(urls)) in shown
    if specimen.acquired:
        file = f"tests/faultlab/broken_apps/{specimen.name}.py"
        assert any(
            file in line and f" {specimen.acquired}" in line for line in shown.splitlines() if "acquired at" in line
        )
        assert "still held" in shown


@each
def test_its_cure_is_cleared(specimen: Specimen, examine: Examine, urls: dict[str, str]) -> None:
    del urls  # in the environment
    examined = examine(f"tests.faultlab.broken_apps.{specimen.name}:cured", *specimen.options)

    assert (examined.status, examined.errors) == (0, ""), examined.output
    assert examined.phase(specimen.phase).endswith("nothing is left behind")


def test_the_tutorial_of_fastapi_is_harmless_as_long_as_it_holds_no_connection(examine: Examine) -> None:
    examined = examine("tests.faultlab.broken_apps.tutorial:harmless")

    assert (examined.status, examined.errors) == (0, ""), examined.output


SEEN_FROM = {
    "missing_finally": ("REDIS_URL", "redis://{redis} holds a connection of gateway, last command ping"),
    "shared_deadline": ("POSTGRESQL_URL", "postgresql://{postgresql} holds a connection of gateway, idle"),
    "robust_under_timeout": ("RABBITMQ_URL", "amqp://{rabbitmq} has an established connection with this machine"),
}


@pytest.mark.parametrize("name", SEEN_FROM)
def test_what_leaks_is_seen_from_the_server(name: str, examine: Examine, urls: dict[str, str]) -> None:
    variable, testimony = SEEN_FROM[name]
    examined = examine(f"tests.faultlab.broken_apps.{name}:naive", "--watch", urls[variable], settle=AT_ONCE)

    assert testimony.format(**addresses(urls)) in examined.output
    assert str(urlsplit(urls[variable]).password) not in examined.output + examined.errors


@pytest.mark.parametrize("name", SEEN_FROM)
def test_who_asks_the_server_is_not_taken_for_a_leak(name: str, examine: Examine, urls: dict[str, str]) -> None:
    examined = examine(f"tests.faultlab.broken_apps.{name}:cured", "--watch", urls[SEEN_FROM[name][0]])

    assert (examined.status, examined.errors) == (0, ""), examined.output
