"""The error messages for operators: one line with the entry, the setting and the fix, without secrets."""

import pytest
from sqlalchemy.exc import ProgrammingError

from gateway.error_messages import explain, explain_database_error
from gateway.lifecycle import StartError, StartTimeoutError, TeardownError
from gateway.resources.base import PermanentError
from gateway.schema.connect import ConnectError
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
    """The message names the resource, its location and the variable that has it."""
    message = explain(start_error(name, ConnectionRefusedError("refused")), SETTINGS)

    assert message.startswith(f"{name}: ConnectionRefusedError: refused: ")
    assert getattr(SETTINGS, name).location in message
    assert message.endswith(f"correct GATEWAY_{name.upper()}__{BY_NAME[name].location_setting.upper()}")


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
    """The message has the notes of the timeout and the error of the last attempt."""
    timeout = StartTimeoutError("not entered within 10 s")
    timeout.add_note("the timeout of the whole startup is 1 s")
    timeout.__cause__ = ConnectionRefusedError("refused")

    message = explain(start_error("redis", timeout), SETTINGS)

    assert "not entered within 10 s (the timeout of the whole startup is 1 s)" in message
    assert "the last attempt failed with ConnectionRefusedError: refused" in message


def test_unclean_shutdown() -> None:
    """The message has each error of the teardown."""
    message = explain(TeardownError("unclean", [ValueError("one"), ValueError("two")]), SETTINGS)

    assert message == "ValueError: one; ValueError: two"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ProgrammingError("SELECT 1", {}, DriverError("42501")), "GATEWAY_DATABASE__URL: the server at localhost:5432"),
        (ProgrammingError("SELECT 1", {}, DriverError("42P01")), "the server at localhost:5432 reports: DriverError"),
        (ConnectionRefusedError("refused"), "correct GATEWAY_DATABASE__URL"),
        (ConnectError("url", "wrong password"), "database: GATEWAY_DATABASE__URL: wrong password"),
        (
            ConnectError("ca_file", "no such file"),
            "database: GATEWAY_DATABASE__URL: no such file",
        ),  # an option of the URL
        (ValueError("other"), "database: other"),
    ],
    ids=["known state", "other state", "unavailable", "permanent", "option", "other"],
)
def test_database_error(error: Exception, expected: str) -> None:
    """The message of a migration or seed names the server, and the variable if its value may be the cause."""
    message = explain_database_error(error, SETTINGS)

    assert expected in message
    assert "SELECT 1" not in message
