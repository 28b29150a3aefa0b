"""The error messages for operators: one line with the entry, the setting and the fix, without secrets."""

import pytest
from sqlalchemy.exc import ProgrammingError

from gateway.error_messages import explain, explain_database_error, explain_resource_error
from gateway.lifecycle import StartError, StartTimeoutError, TeardownError
from gateway.resources.base import PermanentError
from gateway.schema.connect import ConnectError
from gateway.schema.revision import SchemaMismatchError
from gateway.schema.rights import RoleError
from gateway.settings import Settings
from tests.support.entries import BY_NAME, RESOURCES, WORKERS

SETTINGS = Settings.model_validate({"redis": {"url": "redis://user:hunter2@redis-host:1/0"}})


class DriverError(Exception):
    def __init__(self, sqlstate: str) -> None:
        super().__init__("driver message")
        self.sqlstate = sqlstate


def start_error(name: str, cause: Exception) -> StartError:
    error = StartError(name, cause, [])
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("name", RESOURCES)
def test_unavailable_resource(name: str) -> None:
    """The message names the resource, the variable that has its location, the reason and the location."""
    message = explain(start_error(name, ConnectionRefusedError("refused")), SETTINGS)

    variable = f"GATEWAY_{name.upper()}__{BY_NAME[name].location_setting.upper()}"
    assert message == (
        f"{name}: {variable}: ConnectionRefusedError: refused: "
        f"check that {getattr(SETTINGS, name).location} is available, or correct the variable"
    )


def test_no_secrets() -> None:
    """The location has no user and no password."""
    message = explain(start_error("redis", ConnectionRefusedError("refused")), SETTINGS)

    assert "redis-host:1" in message
    assert "hunter2" not in message


@pytest.mark.parametrize("name", WORKERS)
def test_failed_worker(name: str) -> None:
    """A background worker has no variable to correct."""
    error = start_error(name, RuntimeError("bug"))

    assert explain(error, SETTINGS) == str(error)


def test_permanent_error() -> None:
    """The message of a PermanentError names the variable itself."""
    error = start_error("redis", PermanentError("GATEWAY_REDIS__URL: correct it"))

    assert explain(error, SETTINGS) == "redis: GATEWAY_REDIS__URL: correct it"


@pytest.mark.parametrize("sqlstate", ["26000", "42P05"])
def test_pooler_without_prepared_statements(sqlstate: str) -> None:
    """If a statement is lost between two sessions, the message of a start and of a migration names the setting."""
    error = ProgrammingError("SELECT 1", {}, DriverError(sqlstate))

    message = explain(start_error("database", error), SETTINGS)

    assert message.startswith(
        "database: GATEWAY_DATABASE__PREPARED_STATEMENTS: the server at localhost:5432 is behind a"
    )
    assert message == explain_database_error(error, SETTINGS)


def test_start_timeout() -> None:
    """The message has the timeout with its notes, and the error of the last attempt if there is one."""
    timeout = StartTimeoutError("not entered within 10 s")
    timeout.add_note("the timeout of the whole startup is 1 s")
    without_attempt = explain(start_error("redis", timeout), SETTINGS)
    timeout.__cause__ = ConnectionRefusedError("refused")
    message = explain(start_error("redis", timeout), SETTINGS)

    advice = "check that redis-host:1 is available, or correct the variable"
    timeouts = "not entered within 10 s (the timeout of the whole startup is 1 s)"
    assert without_attempt == f"redis: GATEWAY_REDIS__URL: {timeouts}: {advice}"
    assert message == (
        f"redis: GATEWAY_REDIS__URL: ConnectionRefusedError: refused: {advice} "
        "(not entered within 10 s) (the timeout of the whole startup is 1 s)"
    )


def test_unclean_shutdown() -> None:
    """The message has each error of the teardown."""
    message = explain(TeardownError("unclean", [ValueError("one"), ValueError("two")]), SETTINGS)

    assert message == "ValueError: one; ValueError: two"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ProgrammingError("SELECT 1", {}, DriverError("42501")), "GATEWAY_DATABASE__URL: the server at localhost:5432"),
        (ProgrammingError("SELECT 1", {}, DriverError("42P01")), "the server at localhost:5432 reports: DriverError"),
        (ConnectionRefusedError(111, "Connect call failed"), "ConnectionRefusedError: connection refused: check that"),
        (SchemaMismatchError("run `gateway migrate`"), "database: GATEWAY_DATABASE__URL: run `gateway migrate`"),
        (ConnectError("url", "wrong password"), "database: GATEWAY_DATABASE__URL: wrong password"),
        (
            ConnectError("ca_file", "no such file"),
            "database: GATEWAY_DATABASE__URL: no such file",
        ),  # an option of the URL
    ],
    ids=["known state", "other state", "unavailable", "not migrated", "permanent", "option"],
)
def test_database_error(error: Exception, expected: str) -> None:
    """The message names the variable, and is the same for a migration and for a startup."""
    message = explain_database_error(error, SETTINGS)

    assert message == explain(start_error("database", error), SETTINGS)
    assert message.startswith("database: GATEWAY_DATABASE__URL: ")
    assert expected in message
    assert "SELECT 1" not in message


def test_unusable_role() -> None:
    """A wrong `--grant-to` is reported without a variable, because none is wrong."""
    assert explain_database_error(RoleError("the role x does not exist"), SETTINGS) == (
        "database: the role x does not exist"
    )


def test_error_of_a_command() -> None:
    """After the start, the message has no wrong advice: an error with a message of its own, or the errors of a teardown."""
    assert explain_resource_error("redis", PermanentError("GATEWAY_REDIS__URL: correct it"), SETTINGS) == (
        "redis: GATEWAY_REDIS__URL: correct it"
    )
    assert explain_resource_error("redis", TeardownError.of([OSError("lost")]), SETTINGS) == "OSError: lost"
