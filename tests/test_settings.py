"""The settings: read from variables and files, validated before anything is entered, and never shown with secrets."""

import json
import os
import pwd
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from gateway.devstack import reaper
from gateway.settings import (
    InvalidSettingsError,
    RedisSettings,
    Settings,
    host_and_port,
    read_settings,
    unknown_settings,
)


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
    assert (settings.max_connections, settings.max_requests, settings.keep_alive_seconds) == (4000, 600, 75)
    assert (settings.api_keys, settings.operator_keys, settings.trusted_proxies) == ((), (), ())
    assert (settings.access_log, settings.allow_plaintext, settings.instance) == (False, False, "gateway")


def test_variable_of_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable sets one value of a group. The others keep their defaults."""
    monkeypatch.setenv("GATEWAY_REDIS__STOP_TIMEOUT", "7.5")

    redis = read_settings().redis

    assert (redis.stop_timeout, redis.location) == (7.5, "localhost:6379")


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the secret files in this test, which all users can list."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        monkeypatch.setitem(Settings.model_config, "secrets_dir", name)
        yield folder
        folder.chmod(0o755)  # so that it can be removed


def test_secret_files(monkeypatch: pytest.MonkeyPatch, secrets: Path) -> None:
    """A file sets a value, unless a variable sets it."""
    (secrets / "GATEWAY_DATABASE__URL").write_text("postgresql+asyncpg://u:p@from-file/db\n")
    (secrets / "GATEWAY_REDIS__URL").write_text("redis://from-file/0\n")
    (secrets / "GATEWAY_API_KEYS").write_text('["one:one-secret-of-a-key", "two:two-secret-of-a-key"]\n')
    monkeypatch.setenv("GATEWAY_REDIS__URL", "redis://from-variable/0")

    settings = read_settings()

    assert (settings.database.location, settings.redis.location) == ("from-file", "from-variable")
    assert [key.name for key in settings.api_keys] == ["one", "two"]


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Access files as a user other than root during the block."""
    if (user := os.geteuid()) == 0:
        os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        yield
    finally:
        os.seteuid(user)


def write_binary(path: Path) -> None:
    path.write_bytes(b"redis://\xff\xfe/0")


def write_large(path: Path) -> None:
    path.write_bytes(b"x" * 20_000_000)


def make_unreadable(path: Path) -> None:
    path.write_text("redis://from-file/0")
    path.chmod(0)


def make_link_loop(path: Path) -> None:
    path.symlink_to(path)


def make_dangling_link(path: Path) -> None:
    path.symlink_to("/nowhere")


def make_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


BAD_FILES = [
    (write_binary, "is not UTF-8 text"),
    (write_large, "is larger than 64 KiB"),
    (make_unreadable, "permission denied"),
    (Path.mkdir, "is not a regular file"),
    (os.mkfifo, "is not a regular file"),
    (make_device, "is not a regular file"),
    (make_dangling_link, "is a link to a file that does not exist"),
    (make_link_loop, "too many levels of symbolic links"),
]


@pytest.mark.parametrize(("make", "reason"), BAD_FILES)
def test_bad_file(secrets: Path, make: Callable[[Path], None], reason: str) -> None:
    """A file of a setting that cannot be used has one line with its path, the reason and the fix."""
    file = secrets / "GATEWAY_REDIS__URL"
    make(file)

    with ordinary_user(), pytest.raises(InvalidSettingsError) as caught:
        read_settings()

    message = str(caught.value)
    assert message.startswith(f"GATEWAY_REDIS__URL: the file '{file}' ")
    assert reason in message
    assert message.endswith("or remove it")
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("make", [make for make, _ in BAD_FILES])
def test_bad_file_of_another_program(secrets: Path, make: Callable[[Path], None]) -> None:
    """A file with another name is not read, whatever it is, and other files still set their values."""
    make(secrets / "tls.key")
    (secrets / "GATEWAY_REDIS__URL").write_text("redis://from-file/0")

    assert read_settings().redis.location == "from-file"


def test_each_bad_file_has_its_line(secrets: Path) -> None:
    """The message has a line for each bad file."""
    for name in ("GATEWAY_REDIS__URL", "GATEWAY_INSTANCE"):
        write_binary(secrets / name)

    with pytest.raises(InvalidSettingsError) as caught:
        read_settings()

    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["GATEWAY_INSTANCE", "GATEWAY_REDIS__URL"]


def test_variable_replaces_a_bad_file(monkeypatch: pytest.MonkeyPatch, secrets: Path) -> None:
    """A bad file does not matter if a variable sets its value."""
    write_binary(secrets / "GATEWAY_REDIS__URL")
    monkeypatch.setenv("GATEWAY_REDIS__URL", "redis://from-variable/0")

    assert read_settings().redis.location == "from-variable"


def test_files_of_kubernetes(secrets: Path) -> None:
    """Links through `..data` are followed, as Kubernetes mounts secrets."""
    (secrets / "..2026_11_29").mkdir()
    (secrets / "..2026_11_29" / "GATEWAY_REDIS__URL").write_text("redis://from-file/0")
    (secrets / "..data").symlink_to("..2026_11_29")
    (secrets / "GATEWAY_REDIS__URL").symlink_to("..data/GATEWAY_REDIS__URL")

    assert read_settings().redis.location == "from-file"
    assert unknown_settings() == []


def test_unreadable_folder(secrets: Path) -> None:
    """A folder that cannot be listed is reported. The variables still set their values."""
    secrets.chmod(0)

    with ordinary_user():
        assert unknown_settings() == [f"the files in '{secrets}' have no effect: permission denied"]
        assert read_settings().redis.location == "localhost:6379"


@pytest.mark.parametrize("text", [" redis://host/0", "redis://host/0\t\r\n", "\ufeffredis://host/0"])
def test_whitespace_around_a_value(monkeypatch: pytest.MonkeyPatch, secrets: Path, text: str) -> None:
    """Whitespace around a value has no effect in a variable and in a file, nor has a byte order mark in a file."""
    (secrets / "GATEWAY_REDIS__URL").write_text(text)
    assert read_settings().redis.location == "host"

    monkeypatch.setenv("GATEWAY_REDIS__URL", text.lstrip("\ufeff"))
    assert read_settings().redis.url == SecretStr("redis://host/0")


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_empty_value(monkeypatch: pytest.MonkeyPatch, secrets: Path, text: str) -> None:
    """An empty variable or file counts as not set."""
    monkeypatch.setenv("GATEWAY_REDIS__URL", text)
    (secrets / "GATEWAY_INSTANCE").write_text(text)

    assert (read_settings().redis.location, read_settings().instance) == ("localhost:6379", "gateway")


@pytest.mark.parametrize("quote", ['"', "'"])
def test_quotes_around_a_value(monkeypatch: pytest.MonkeyPatch, quote: str) -> None:
    """A value in quotes, as in the file of `docker run --env-file`, has a line that names its variable."""
    monkeypatch.setenv("GATEWAY_REDIS__URL", f"{quote}redis://:hunter2@host/0{quote}")
    monkeypatch.setenv("GATEWAY_BRIEF_TIMEOUT", f"{quote}1{quote}")

    with pytest.raises(InvalidSettingsError) as caught:
        read_settings()

    lines = sorted(str(caught.value).splitlines())
    assert lines == [f"GATEWAY_{name}: the text is in quotes: remove them" for name in ("BRIEF_TIMEOUT", "REDIS__URL")]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("GATEWAY_REDIS_URL", "did you mean GATEWAY_REDIS__URL?"),
        ("GATEWAY_REDIS__URLS", "did you mean GATEWAY_REDIS__URL?"),
        ("gateway_redis_url", "did you mean GATEWAY_REDIS__URL?"),
        ("GATEWAY_DRAIN_SECOND", "did you mean GATEWAY_DRAIN_SECONDS?"),
        ("GATEWAY_FOO", "no setting has this name"),
    ],
)
def test_unknown_name(monkeypatch: pytest.MonkeyPatch, secrets: Path, name: str, advice: str) -> None:
    """A variable or a file whose name is unknown has a line with the nearest name, and no effect."""
    monkeypatch.setenv(name, "hunter2")
    (secrets / name).write_text("hunter2")

    assert unknown_settings() == [
        f"{name.upper()} has no effect: {advice}",
        f"the file '{secrets / name}' has no effect: {advice}",
    ]
    assert read_settings() == Settings.model_construct()


def test_file_that_a_setting_names(monkeypatch: pytest.MonkeyPatch, secrets: Path) -> None:
    """A file has an effect if a setting names it, whatever its own name is."""
    certificate = secrets / "gateway_ca.pem"
    certificate.write_text("a certificate")
    monkeypatch.setenv("GATEWAY_REDIS__CA_FILE", str(certificate))

    assert unknown_settings() == []


def test_names_without_regard_to_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name in lower case sets the value, unless the name in upper case sets it, too."""
    monkeypatch.setenv("gateway_redis__url", "redis://lower/0")
    assert read_settings().redis.location == "lower"

    monkeypatch.setenv("GATEWAY_REDIS__URL", "redis://upper/0")
    assert read_settings().redis.location == "upper"
    assert unknown_settings() == []


def test_names_of_other_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of the development tools, and of Kubernetes for a service named `gateway`, are no settings."""
    monkeypatch.setenv(reaper.MARKER, "/tmp/stack")  # noqa: S108 - not opened
    monkeypatch.setenv("GATEWAY_COMPOSE", "podman compose")
    monkeypatch.setenv("GATEWAY_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("GATEWAY_SERVICE_PORT_HTTP", "80")
    monkeypatch.setenv("GATEWAY_PORT", "tcp://10.0.0.1:80")
    monkeypatch.setenv("GATEWAY_PORT_80_TCP_ADDR", "10.0.0.1")

    assert unknown_settings() == []


SPECIAL_CHARACTERS = "@/?#:[]% "
PASSWORDS = st.text(st.sampled_from("QXZJ379" + SPECIAL_CHARACTERS), min_size=4, max_size=20)
URLS = ["postgresql+asyncpg://u:{}@h/d", "redis://:{}@h:6/0", "redis://{}@h", "amqp://u:{}@h/", "https://u:{}@h"]
GROUPS = {"postgresql+asyncpg": "database", "redis": "redis", "amqp": "rabbitmq", "https": "http"}


def settings_with(url: str) -> Settings:
    """Validate settings with the URL of a server."""
    group = GROUPS[url.partition(":")[0]]
    return Settings.model_validate({group: {"weather_url" if group == "http" else "url": url}})


@settings(max_examples=500, deadline=None)
@given(template=st.sampled_from(URLS), password=PASSWORDS)
def test_password_that_is_not_encoded(template: str, password: str) -> None:
    """No part of a password is shown as the host or in an error, whatever special characters it has."""
    group = GROUPS[template.partition(":")[0]]
    try:
        shown = getattr(settings_with(template.format(password)), group).location
        assert shown in {"h", "h:6"}
    except ValidationError as error:
        shown = "".join(details["msg"] for details in error.errors())

    assert not any(password[start : start + 4] in shown for start in range(len(password) - 3))


@settings(deadline=None)
@given(template=st.sampled_from(URLS[:-1]), password=PASSWORDS)
def test_encoded_password(template: str, password: str) -> None:
    """An encoded password is accepted, whatever special characters it has."""
    group = GROUPS[template.partition(":")[0]]

    assert getattr(settings_with(template.format(quote(password, safe=""))), group).location in {"h", "h:6"}


@pytest.mark.parametrize(
    "password", ["p@ss", "p/12", "p?12", "p#12", "p[12", "p]12", "p%zz", "12/w", "12?w", "12#w", "p@s/w"]
)
@pytest.mark.parametrize("template", URLS[:2])
def test_advice_for_a_special_character(template: str, password: str) -> None:
    """The error about a special character gives its encoding."""
    with pytest.raises(ValidationError, match=r"percent-encode the password \(%40 for @"):
        settings_with(template.format(password))


@pytest.mark.parametrize(
    "url",
    [
        "redis://host:99999",
        "redis://host:port",
        "redis://",
        "redis://h%40st",
        "redis:host",
        "redis://[::1",
        "rediss:///0",
        "redis://a..b/0",
        "redis://.host/0",
        f"redis://{'x' * 70}.example/0",
    ],
)
def test_url_without_an_address(url: str) -> None:
    """A URL has to have a host that can be resolved, and a valid port if it has one."""
    with pytest.raises(ValidationError):
        RedisSettings(url=SecretStr(url))


@pytest.mark.parametrize("host", ["host", "host.", "a-b.c_d.example", "bücher.example", "10.0.0.1", "[::1]"])
def test_valid_hosts(host: str) -> None:
    """A host is a name, fully qualified or not, or an address."""
    assert RedisSettings(url=SecretStr(f"redis://{host}:1/0")).location.startswith(host)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (
            {"HTTP__CA_FILE": "/ca.pem", "HTTP__WEATHER_URL": "http://host"},
            ["GATEWAY_HTTP__CA_FILE: has no effect without TLS: use https:// in GATEWAY_HTTP__WEATHER_URL"],
        ),
        (
            {"REDIS__KEY_FILE": "/key.pem", "RABBITMQ__CA_FILE": "/ca.pem"},
            [
                "GATEWAY_REDIS__KEY_FILE: has no effect without TLS: use rediss:// in GATEWAY_REDIS__URL",
                "GATEWAY_RABBITMQ__CA_FILE: has no effect without TLS: use amqps:// in GATEWAY_RABBITMQ__URL",
            ],
        ),
    ],
)
def test_useless_tls_files(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: list[str]) -> None:
    """A file for TLS that would have no effect is an error that names the variables."""
    for name, value in variables.items():
        monkeypatch.setenv(f"GATEWAY_{name}", value)

    with pytest.raises(InvalidSettingsError) as caught:
        read_settings()

    assert str(caught.value).splitlines() == expected


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


@pytest.mark.parametrize("keys", ["hunter2", '{"hunter2": 1}', "1", "null"])
def test_api_keys_are_a_list(monkeypatch: pytest.MonkeyPatch, keys: str) -> None:
    """The API keys are a JSON list (test_api_keys.py has its items)."""
    monkeypatch.setenv("GATEWAY_API_KEYS", keys)

    with pytest.raises(InvalidSettingsError, match=r"\AGATEWAY_API_KEYS: should be a JSON list") as caught:
        read_settings()

    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys of operators and the trusted proxies are JSON lists. A proxy is an address or a network."""
    monkeypatch.setenv("GATEWAY_OPERATOR_KEYS", '["alice:hunter2-and-more-text"]')
    monkeypatch.setenv("GATEWAY_TRUSTED_PROXIES", '["192.0.2.1", "2001:db8::/32"]')

    settings = read_settings()

    assert [key.name for key in settings.operator_keys] == ["alice"]
    assert [str(network) for network in settings.trusted_proxies] == ["192.0.2.1/32", "2001:db8::/32"]
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize("proxies", ["192.0.2.1", '["*"]', '["192.0.2.1/8"]', '["proxy.example"]'])
def test_invalid_proxies(monkeypatch: pytest.MonkeyPatch, proxies: str) -> None:
    """A proxy that is neither an address nor a network is rejected: not all clients may choose their address."""
    monkeypatch.setenv("GATEWAY_TRUSTED_PROXIES", proxies)

    with pytest.raises(InvalidSettingsError, match=r"\AGATEWAY_TRUSTED_PROXIES: (item 1|should be a JSON list)"):
        read_settings()


@pytest.mark.parametrize(
    "origin",
    [
        "https://example.org",
        "http://localhost:3000",
        "http://[::1]:8000",
        "https://example.org:8443",
        "http://a:8080",
        "*",
    ],
)
def test_cors_origin(monkeypatch: pytest.MonkeyPatch, origin: str) -> None:
    """An origin in the form of the header Origin, or `*`, is accepted."""
    monkeypatch.setenv("GATEWAY_CORS_ORIGINS", json.dumps([origin]))

    assert read_settings().cors_origins == (origin,)


@pytest.mark.parametrize(
    "origins",
    [
        "https://example.org",
        '"*"',
        "[1]",
        '[""]',
        '["null"]',
        '["example.org"]',
        '["https://example.org/"]',
        '["https://Example.org"]',
        '["https://example.org:443"]',
        '["http://example.org:80"]',
        '["https://*.example.org"]',
        '["ftp://example.org"]',
        '["https://user@example.org"]',
        '["https://example.org\\n"]',
    ],
)
def test_invalid_cors_origins(monkeypatch: pytest.MonkeyPatch, origins: str) -> None:
    """An origin that no browser would send, such as one with a path, is rejected."""
    monkeypatch.setenv("GATEWAY_CORS_ORIGINS", origins)

    with pytest.raises(InvalidSettingsError, match=r"\AGATEWAY_CORS_ORIGINS: "):
        read_settings()


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

    settings = read_settings()

    assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()
