"""The options of an AMQP URL: those that have an effect are accepted, and all others are named."""

import pytest

from gateway.network.amqp_url import AMQPOptions, amqp_options
from gateway.settings import InvalidSettingsError, read_settings


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", AMQPOptions()),
        ("?auth=EXTERNAL", AMQPOptions(auth="external")),
        ("?heartbeat=30&no_verify_ssl=1", AMQPOptions(heartbeat=30, verify=False)),
    ],
)
def test_options(query: str, expected: AMQPOptions) -> None:
    """Each option sets one value."""
    assert amqp_options(f"amqps://user:hunter2@host/vhost{query}") == expected


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("foo=hunter2", "option 'foo' is unknown"),
        ("heartbeat=hunter2", "heartbeat should be a number of seconds"),
        ("heartbeat=0", "heartbeat should be a number of seconds"),
        ("no_verify_ssl=hunter2", "no_verify_ssl should be 0 or 1"),
        ("auth=hunter2", "auth should be one of plain, external"),
        ("cafile=/hunter2.pem", "cafile is not supported: set GATEWAY_RABBITMQ__CA_FILE"),
        ("heartbeat=30&heartbeat=60", "heartbeat is there twice"),
        ("fail_fast=0", "option 'fail_fast' is unknown"),
    ],
)
def test_invalid_option(monkeypatch: pytest.MonkeyPatch, query: str, message: str) -> None:
    """An option without effect fails before anything is entered, with one line that names variable and option."""
    monkeypatch.setenv("GATEWAY_RABBITMQ__URL", f"amqps://user:hunter2@host/vhost?{query}")

    with pytest.raises(InvalidSettingsError) as error:
        read_settings()

    assert str(error.value).startswith("GATEWAY_RABBITMQ__URL: ")
    assert message in str(error.value)
    assert "hunter2" not in str(error.value)
    assert "\n" not in str(error.value)


def test_verification_without_tls() -> None:
    """An option for TLS needs a URL with TLS."""
    with pytest.raises(ValueError, match="no_verify_ssl has no effect without TLS"):
        amqp_options("amqp://host/vhost?no_verify_ssl=1")
