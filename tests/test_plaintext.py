"""The warnings of connections to other machines without TLS."""

import pytest

from gateway.settings import Settings
from gateway.settings.plaintext import plaintext_warnings


@pytest.mark.parametrize(
    ("name", "url", "advice"),
    [
        ("http", "http://weather:8000", "use https://"),
        ("database", "postgresql+asyncpg://u:hunter2@db/d", "set GATEWAY_DATABASE__CA_FILE, or add ?ssl=verify-full"),
        ("database", "postgresql+asyncpg://u:hunter2@db/d?ssl=disable", "set GATEWAY_DATABASE__CA_FILE"),
        ("redis", "redis://:hunter2@10.0.0.1:6379/0", "use rediss://"),
        ("rabbitmq", "amqp://u:hunter2@[2001:db8::1]/", "use amqps://"),
        ("rabbitmq", "amqp://u:hunter2@localhost.example/", "use amqps://"),
    ],
)
def test_plaintext_connection(name: str, url: str, advice: str) -> None:
    """A connection to another machine without TLS has one line, with the variable and the fix, and without the password."""
    field = "weather_url" if name == "http" else "url"
    read = Settings.model_validate({name: {field: url}})

    (line,) = plaintext_warnings(read)

    assert line.startswith(
        f"GATEWAY_{name.upper()}__{field.upper()}: the connection to {getattr(read, name).location} is not"
    )
    assert advice in line
    assert "hunter2" not in line
    assert plaintext_warnings(read.model_copy(update={"allow_plaintext": True})) == []


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("http", {"weather_url": "https://weather"}),
        ("http", {"weather_url": "http://127.1.2.3:1"}),
        ("database", {"url": "postgresql+asyncpg://u@LOCALHOST/d"}),
        ("database", {"url": "postgresql+asyncpg://u@db/d?ssl=require"}),
        ("database", {"url": "postgresql+asyncpg://u@db/d", "ca_file": "/ca.pem"}),
        ("redis", {"url": "redis://[::1]:1/0"}),
        ("redis", {"url": "rediss://redis/0"}),
        ("rabbitmq", {"url": "amqps://u@broker/"}),
    ],
)
def test_no_plaintext_connection(name: str, values: dict[str, str]) -> None:
    """A connection by TLS, or to this machine, has no warning."""
    assert plaintext_warnings(Settings.model_validate({name: values})) == []


def test_plaintext_connections_by_default() -> None:
    """The defaults have no warning: the servers are on this machine, and the weather comes by TLS."""
    assert plaintext_warnings(Settings()) == []
