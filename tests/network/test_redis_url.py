"""The URL of Redis: its parts, and the message for each that is not valid."""

import pytest

from gateway.network.redis_url import RedisURL, parse_redis_url

VALID_URLS = {
    "redis://localhost": RedisURL("localhost"),
    "redis://localhost/": RedisURL("localhost"),
    "redis://user:p%40ss@[::1]:7000/3": RedisURL("::1", 7000, "user", "p@ss", 3),
    "redis://:secret@localhost?db=2&protocol=2": RedisURL("localhost", password="secret", database=2, protocol=2),
    "rediss://localhost/1": RedisURL("localhost", database=1, tls=True),
    "rediss://localhost?ssl_cert_reqs=none": RedisURL("localhost", tls=True, verify=False),
    "rediss://localhost?ssl_check_hostname=False": RedisURL("localhost", tls=True, check_hostname=False),
}

INVALID_URLS = {
    "?foo=1": "has the option 'foo', which is not supported",
    "?max_connections=1": "has the option 'max_connections', which is not supported",
    "?socket_timeout=x": "has the option 'socket_timeout', which is not supported",
    "?password=hunter2": "has the option 'password', which is not supported",
    "?db=abc": "number of the database",
    "?db=": "number of the database",
    "?db=-1": "number of the database",
    "/abc": "number of the database",
    "/1/2": "number of the database",
    "/1?db=1": "number of the database once",
    "?db=1&db=2": "has the option 'db' twice",
    "?protocol=4": "wrong value of the option 'protocol', which is 2 or 3",
    "?ssl_cert_reqs=none": "'ssl_cert_reqs', which needs a URL with rediss://",
    "?ssl_ca_certs=/ca.pem": "set GATEWAY_REDIS__CA_FILE instead",
    "?ssl_certfile=/cert.pem": "set GATEWAY_REDIS__CERT_FILE instead",
    "?ssl_keyfile=/key.pem": "set GATEWAY_REDIS__KEY_FILE instead",
    "#hunter2": "no # in it",
    "/hunter2@127.0.0.1": "write them as %2F, %3F, %23",
    "?hunter2@127.0.0.1": "write them as %2F, %3F, %23",
}


@pytest.mark.parametrize(("url", "parts"), VALID_URLS.items())
def test_valid_url(url: str, parts: RedisURL) -> None:
    """The parts are those that redis-py would use."""
    assert parse_redis_url(url) == parts


@pytest.mark.parametrize(("rest", "message"), INVALID_URLS.items())
def test_invalid_url(rest: str, message: str) -> None:
    """The message names the option or the fix, and has no secret."""
    with pytest.raises(ValueError, match=r"\w") as caught:
        parse_redis_url(f"redis://localhost:6379{rest}")

    assert message in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_invalid_tls_option() -> None:
    """A value of an option for TLS that redis-py would accept or crash on is rejected."""
    with pytest.raises(ValueError, match="wrong value of the option 'ssl_cert_reqs', which is required or none"):
        parse_redis_url("rediss://localhost?ssl_cert_reqs=optional")


def test_password_is_not_shown() -> None:
    """The representation of the parts has no password."""
    assert "hunter2" not in repr(parse_redis_url("redis://user:hunter2@localhost"))
