"""The settings: read from variables and files, validated before anything is entered, and never shown with secrets."""

import os
import traceback
from pathlib import Path

import pytest
from pydantic import SecretStr

from gateway.settings import InvalidSettingsError, Settings, host_and_port, read_settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("GATEWAY_"):
            monkeypatch.delenv(name)


def test_defaults() -> None:
    """The defaults are those of servers on this machine."""
    settings = read_settings()

    assert settings.http.location == "api.open-meteo.com"
    assert settings.database.location == "localhost:5432"
    assert settings.redis.location == "localhost:6379"
    assert settings.rabbitmq.location == "localhost:5672"
    assert settings.model.path.is_file()
    assert (settings.database.start_timeout, settings.database.stop_timeout) == (10, 3)
    assert (settings.startup_timeout, settings.shutdown_timeout) == (30, 30)
    assert (settings.drain_seconds, settings.graceful_seconds) == (0, 10)
    assert (settings.ready_grace, settings.brief_timeout) == (30, 0.8)
    assert (settings.max_head_bytes, settings.head_timeout) == (32 * 1024, 10)
    assert (settings.max_connections, settings.keep_alive_seconds) == (1000, 75)
    assert (settings.api_keys, settings.instance) == ((), "gateway")


def test_variable_of_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable sets one value of a group. The others keep their defaults."""
    monkeypatch.setenv("GATEWAY_REDIS__STOP_TIMEOUT", "7.5")

    redis = read_settings().redis

    assert (redis.stop_timeout, redis.location) == (7.5, "localhost:6379")


def test_secret_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file sets a value, unless a variable sets it."""
    (tmp_path / "GATEWAY_DATABASE__URL").write_text("postgresql+asyncpg://u:p@from-file/db\n")
    (tmp_path / "GATEWAY_REDIS__URL").write_text("redis://from-file/0\n")
    (tmp_path / "GATEWAY_API_KEYS").write_text('["one", "two"]\n')
    monkeypatch.setitem(Settings.model_config, "secrets_dir", str(tmp_path))
    monkeypatch.setenv("GATEWAY_REDIS__URL", "redis://from-variable/0")

    settings = read_settings()

    assert (settings.database.location, settings.redis.location) == ("from-file", "from-variable")
    assert [key.get_secret_value() for key in settings.api_keys] == ["one", "two"]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://user:hunter2@host:1/0", "host:1"),
        ("redis://user:hunter2@host/0", "host"),
        ("redis://user:hunter2@[::1]:1", "[::1]:1"),
    ],
)
def test_host_and_port(url: str, expected: str) -> None:
    """Messages show a URL without user, password and path."""
    assert host_and_port(SecretStr(url)) == expected


def test_location_of_a_path() -> None:
    """The location of the model is its path."""
    settings = read_settings()

    assert settings.model.location == str(settings.model.path)


def test_each_error_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each invalid variable has one line, and no value is in the message or the traceback."""
    monkeypatch.setenv("GATEWAY_DATABASE__URL", "postgres://u:hunter2@host/db")
    monkeypatch.setenv("GATEWAY_BRIEF_TIMEOUT", "hunter2")
    monkeypatch.setenv("GATEWAY_API_KEYS", "hunter2")

    with pytest.raises(InvalidSettingsError) as caught:
        read_settings()

    assert sorted(line.split(":")[0] for line in str(caught.value).splitlines()) == [
        "GATEWAY_API_KEYS",
        "GATEWAY_BRIEF_TIMEOUT",
        "GATEWAY_DATABASE__URL",
    ]
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("keys", ["hunter2", '"hunter2"', '{"hunter2": 1}', '["hunter2 "]', '[""]', "[1]"])
def test_invalid_api_keys(monkeypatch: pytest.MonkeyPatch, keys: str) -> None:
    """The keys are a JSON list of visible ASCII texts."""
    monkeypatch.setenv("GATEWAY_API_KEYS", keys)

    with pytest.raises(InvalidSettingsError, match=r"\AGATEWAY_API_KEYS") as caught:
        read_settings()

    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_variable_with_the_name_of_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the group and the form of its variables, and not the value."""
    monkeypatch.setenv("GATEWAY_REDIS", "hunter2")

    with pytest.raises(InvalidSettingsError, match=r'"redis".*GATEWAY_REDIS__URL') as caught:
        read_settings()

    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_shutdown_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """The drain and the graceful period have to fit into the shutdown timeout."""
    monkeypatch.setenv("GATEWAY_DRAIN_SECONDS", "25")

    with pytest.raises(InvalidSettingsError, match="GATEWAY_SHUTDOWN_TIMEOUT should be more than"):
        read_settings()


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """No text form of the settings contains a secret."""
    monkeypatch.setenv("GATEWAY_RABBITMQ__URL", "amqp://user:hunter2@host/")
    monkeypatch.setenv("GATEWAY_API_KEYS", '["hunter2"]')

    settings = read_settings()

    assert [key.get_secret_value() for key in settings.api_keys] == ["hunter2"]
    assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()
