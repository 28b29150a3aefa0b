"""The lab's teeth: it convicts each specimen where its mistake shows, names what leaks, and clears the cure."""

from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

from tests.faultlab.examining import Examine


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


def addresses(urls: dict[str, str]) -> dict[str, str]:
    named = {"redis": "REDIS_URL", "rabbitmq": "RABBITMQ_URL", "postgresql": "POSTGRESQL_URL"}
    parts = {name: urlsplit(urls[variable]) for name, variable in named.items()}
    return {name: f"{part.hostname}:{part.port}" for name, part in parts.items()}


@each
def test_a_mistake_is_convicted_where_it_shows(specimen: Specimen, examine: Examine, urls: dict[str, str]) -> None:
    examined = examine(f"tests.faultlab.specimens.{specimen.name}:naive", *specimen.options)
    shown = examined.phase(specimen.phase)

    assert examined.status == 1
    assert specimen.leak.format(**addresses(urls)) in shown
    if specimen.acquired:
        file = f"tests/faultlab/specimens/{specimen.name}.py"
        assert any(
            file in line and f" {specimen.acquired}" in line for line in shown.splitlines() if "acquired at" in line
        )
        assert "still held" in shown


@each
def test_its_cure_is_cleared_on_the_servers_too(specimen: Specimen, examine: Examine, urls: dict[str, str]) -> None:
    watched = [urls["REDIS_URL"], urls["POSTGRESQL_URL"], urls["RABBITMQ_URL"]]
    examined = examine(f"tests.faultlab.specimens.{specimen.name}:cured", *specimen.options, "--watch", *watched)

    assert (examined.status, examined.errors) == (0, ""), examined.output
    assert examined.phase(specimen.phase).endswith("nothing is left behind")


def test_the_tutorial_of_fastapi_is_harmless_as_long_as_it_holds_no_connection(examine: Examine) -> None:
    examined = examine("tests.faultlab.specimens.tutorial:harmless")

    assert (examined.status, examined.errors) == (0, ""), examined.output


def test_what_leaks_is_seen_from_the_servers(examine: Examine, urls: dict[str, str]) -> None:
    watched = [urls["REDIS_URL"], urls["POSTGRESQL_URL"], urls["RABBITMQ_URL"]]
    shown = {
        name: examine(f"tests.faultlab.specimens.{name}:naive", "--watch", *watched).output
        for name in ("missing_finally", "tutorial", "robust_under_timeout")
    }
    at = addresses(urls)

    assert f"redis://{at['redis']} holds a connection of gateway, last command ping" in shown["missing_finally"]
    assert f"postgresql://{at['postgresql']} holds a connection of gateway, idle" in shown["tutorial"]
    assert f"amqp://{at['rabbitmq']} has an established connection with this machine" in shown["robust_under_timeout"]
    for url in watched:
        assert str(urlsplit(url).password) not in "".join(shown.values())
