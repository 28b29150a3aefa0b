"""The settings: from variables or files, checked before anything is entered, and never shown with their secrets."""

import os
import traceback
from pathlib import Path

import pytest

from gateway.settings import InvalidSettingsError, Settings, host_and_port, read_settings


@pytest.fixture(autouse=True)
def _no_variables_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("GATEWAY_"):
            monkeypatch.delenv(name)


def test_defaults_are_those_of_one_machine() -> None:
    settings = read_settings()

    assert host_and_port(settings.http.weather_url) == "api.open-meteo.com"
    assert host_and_port(settings.database.url) == "localhost:5432"
    assert host_and_port(settings.redis.url) == "localhost:6379"
    assert host_and_port(settings.rabbitmq.url) == "localhost:5672"
    assert settings.model.path.is_file()
    assert (settings.database.start_timeout, settings.database.stop_timeout) == (10, 3)
    assert (settings.startup_timeout, settings.shutdown_timeout) == (30, 30)
    assert (settings.drain_seconds, settings.graceful_seconds) == (0, 10)
    assert (settings.ready_grace, settings.brief_timeout) == (30, 0.8)
    assert (settings.api_keys, settings.instance) == ((), "gateway")


def test_a_variable_sets_one_value_of_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_REDIS__STOP_TIMEOUT", "7.5")
    redis = read_settings().redis

    assert (redis.stop_timeout, host_and_port(redis.url)) == (7.5, "localhost:6379")


def test_a_file_sets_what_no_variable_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "GATEWAY_DATABASE__URL").write_text("postgresql+asyncpg://u:p@from-file/db\n")
    (tmp_path / "GATEWAY_REDIS__URL").write_text("redis://from-file/0\n")
    monkeypatch.setitem(Settings.model_config, "secrets_dir", str(tmp_path))
    monkeypatch.setenv("GATEWAY_REDIS__URL", "redis://from-variable/0")
    settings = read_settings()

    assert (host_and_port(settings.database.url), host_and_port(settings.redis.url)) == ("from-file", "from-variable")


def test_every_mistake_has_a_line_and_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_DATABASE__URL", "postgres://u:hunter2@host/db")
    monkeypatch.setenv("GATEWAY_BRIEF_TIMEOUT", "hunter2")
    with pytest.raises(InvalidSettingsError) as caught:
        read_settings()

    assert sorted(line.split(":")[0] for line in str(caught.value).splitlines()) == [
        "GATEWAY_BRIEF_TIMEOUT",
        "GATEWAY_DATABASE__URL",
    ]
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_the_parts_of_a_stop_fit_into_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_DRAIN_SECONDS", "25")
    with pytest.raises(InvalidSettingsError, match="GATEWAY_SHUTDOWN_TIMEOUT should be more than"):
        read_settings()


def test_nothing_that_shows_them_shows_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_RABBITMQ__URL", "amqp://user:hunter2@host/")
    monkeypatch.setenv("GATEWAY_API_KEYS", '["hunter2"]')
    settings = read_settings()

    assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()
