"""The command detects each broken app, names what leaks, and finds nothing in the fixed one."""

from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

from tests.faultlab.cli_result import Check


@dataclass(frozen=True)
class BrokenApp:
    """The expected result for one broken app.

    Attributes:
        name: its module.
        phase: the beginning of the line of the phase that shows the mistake.
        finding: what is reported; `{redis}` and the like are the addresses of the servers.
        acquired_in: the function in which the leaked resource was acquired, if one leaks.
        options: further options of the command.
    """

    name: str
    phase: str
    finding: str
    acquired_in: str = ""
    options: tuple[str, ...] = ()


BROKEN_APPS = [
    BrokenApp("missing_finally", "teardown", "socket to {redis}", "broken_lifespan"),
    BrokenApp("startup_order", "no fault", "socket to {redis}", "count"),
    BrokenApp("tutorial", "startup", "socket to {redis}", "broken_lifespan"),
    BrokenApp(
        "shared_deadline",
        "stopped while no server answers",
        "socket to {postgresql}",
        "broken_lifespan",
        ("--partition",),
    ),
    BrokenApp("robust_under_timeout", "startup", "socket to {rabbitmq}", "broken_lifespan"),
    BrokenApp("swallowed_cancellation", "teardown", "error: the lifespan swallowed its cancellation and continued"),
    BrokenApp(
        "session_outlives_engine",
        "stopped during a request",
        "unclosed connection <asyncpg.connection.Connection",
        options=("--request", "/report"),
    ),
    BrokenApp("client_at_import", "no fault", "socket to {redis}", "broken_lifespan"),
    BrokenApp("forgotten_close", "no fault", "socket to {redis}", "broken_client"),
]
QUICK_APPS = {
    "missing_finally",
    "swallowed_cancellation",
    "session_outlives_engine",
    "client_at_import",
}  # the others: `make faults`
each_app = pytest.mark.parametrize(
    "app",
    [pytest.param(app, id=app.name, marks=() if app.name in QUICK_APPS else pytest.mark.long) for app in BROKEN_APPS],
)

SHORT_SETTLE = 0.03  # a broken app leaks at dozens of points, and each of them waits this long


def addresses(urls: dict[str, str]) -> dict[str, str]:
    variables = {"redis": "REDIS_URL", "rabbitmq": "RABBITMQ_URL", "postgresql": "POSTGRESQL_URL"}
    parts = {name: urlsplit(urls[variable]) for name, variable in variables.items()}
    return {name: f"{part.hostname}:{part.port}" for name, part in parts.items()}


@each_app
def test_broken_app_is_detected(app: BrokenApp, check: Check, urls: dict[str, str]) -> None:
    """The phase that shows the mistake names what leaks, and where that was acquired."""
    result = check(f"tests.faultlab.broken_apps.{app.name}:broken", *app.options, settle=SHORT_SETTLE)

    shown = result.phase(app.phase)
    assert result.status == 1
    assert app.finding.format(**addresses(urls)) in shown
    if app.acquired_in:
        file = f"tests/faultlab/broken_apps/{app.name}.py"
        acquired = [line for line in shown.splitlines() if "acquired at" in line]
        assert any(file in line and f" {app.acquired_in}" in line for line in acquired)
        assert "still open" in shown


@pytest.mark.long
@each_app
def test_fixed_app_passes(app: BrokenApp, check: Check, urls: dict[str, str]) -> None:
    """The fixed app has no leaks and no errors in any phase."""
    del urls  # in the environment
    result = check(f"tests.faultlab.broken_apps.{app.name}:fixed", *app.options)

    assert (result.status, result.errors) == (0, ""), result.output
    assert result.phase(app.phase).endswith(": no leaks")


def test_fastapi_tutorial_without_connections_passes(check: Check) -> None:
    """The lifespan of FastAPI's documentation, which opens nothing, has no leaks."""
    result = check("tests.faultlab.broken_apps.tutorial:harmless")

    assert (result.status, result.errors) == (0, ""), result.output


REPORTED_BY = {
    "missing_finally": ("REDIS_URL", "redis://{redis} reports a connection of user gateway, last command ping"),
    "shared_deadline": ("POSTGRESQL_URL", "postgresql://{postgresql} reports a connection of user gateway, idle"),
    "robust_under_timeout": ("RABBITMQ_URL", "amqp://{rabbitmq} has an established connection with this machine"),
}


each_report = pytest.mark.parametrize(
    "name", [name if name in QUICK_APPS else pytest.param(name, marks=pytest.mark.long) for name in REPORTED_BY]
)


@each_report
def test_server_reports_leaked_connection(name: str, check: Check, urls: dict[str, str]) -> None:
    """With `--watch`, the connection that leaks is listed as the server reports it, without the password."""
    variable, report = REPORTED_BY[name]
    result = check(f"tests.faultlab.broken_apps.{name}:broken", "--watch", urls[variable], settle=SHORT_SETTLE)

    assert report.format(**addresses(urls)) in result.output
    assert str(urlsplit(urls[variable]).password) not in result.output + result.errors


@each_report
def test_probe_connection_is_not_a_leak(name: str, check: Check, urls: dict[str, str]) -> None:
    """The probe's own connection to the server is not reported."""
    result = check(f"tests.faultlab.broken_apps.{name}:fixed", "--watch", urls[REPORTED_BY[name][0]])

    assert (result.status, result.errors) == (0, ""), result.output
