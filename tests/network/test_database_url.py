"""The URL of the database: its options are converted, and an invalid one is rejected in one line without a value."""

from pathlib import Path

import pytest

from gateway.network.database_url import add_options, parse_database_url

BASE = "postgresql+asyncpg://user:pass%40word@[::1]:5433/a%20name"


def test_parts() -> None:
    """The parts are decoded, and the representation has no password."""
    url = parse_database_url(BASE)

    assert (url.user, url.password, url.host, url.port, url.database) == ("user", "pass@word", "::1", 5433, "a name")
    assert url.location == "[::1]:5433"
    assert "word" not in repr(url)


def test_defaults() -> None:
    """A URL of a host alone has the default port, and no TLS."""
    url = parse_database_url("postgresql+asyncpg://host")

    assert (url.user, url.password, url.port, url.database) == (None, None, 5432, None)
    assert not url.options.uses_tls


def test_options_are_converted() -> None:
    """The options of asyncpg and SQLAlchemy are converted to their types."""
    query = "command_timeout=3&statement_cache_size=0&prepared_statement_cache_size=5&timeout=2.5&application_name=a+b"
    options = parse_database_url(f"{BASE}?{query}").options

    assert (options.command_timeout, options.connect_timeout) == (3.0, 2.5)
    assert (options.statement_cache_size, options.prepared_statement_cache_size) == (0, 5)
    assert options.application_name == "a b"


@pytest.mark.parametrize("name", ["ssl", "sslmode"])
def test_libpq_options(name: str) -> None:
    """The options of libpq have the same effect as those of asyncpg."""
    options = parse_database_url(f"{BASE}?{name}=verify-ca&sslrootcert=%2Fca.pem&connect_timeout=4").options

    assert options.ssl == "verify-ca"
    assert options.tls_files.ca_file == Path("/ca.pem")
    assert options.connect_timeout == 4


def test_files_enable_tls() -> None:
    """A file for TLS without a mode enables TLS."""
    assert parse_database_url(f"{BASE}?sslrootcert=/ca.pem").options.uses_tls


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("ssl=hunter2", "option ssl should be 'disable', 'require', 'verify-ca' or 'verify-full'"),
        ("sslmode=prefer", "option sslmode should be 'disable', 'require', 'verify-ca' or 'verify-full'"),
        ("ssl=", "option ssl should be 'disable', 'require', 'verify-ca' or 'verify-full'"),
        ("command_timeout=hunter2", "option command_timeout should be a valid number"),
        ("timeout=nan", "option timeout should be a finite number"),
        ("connect_timeout=0", "option connect_timeout should be greater than 0"),
        ("statement_cache_size=1.5", "option statement_cache_size should be a valid integer"),
        ("foo=hunter2", "has an unknown option 'foo': the options are application_name, command_timeout"),
        ("host=hunter2", "has an unknown option 'host'"),
        ("a%0Ab=1", r"has an unknown option 'a\nb'"),
        ("ssl=require&ssl=disable", "has the option 'ssl' twice"),
        ("ssl=require&sslmode=require", "has the option 'sslmode' twice"),
        ("ssl=disable&sslrootcert=/hunter2", "has ssl=disable, although files for TLS are set"),
        ("ssl=verify-ca", "has ssl=verify-ca without sslrootcert or GATEWAY_DATABASE__CA_FILE"),
        ("nter2@host/name", "has @ or # after the host"),
        ("ssl=require#hunter2", "has @ or # after the host"),
    ],
)
def test_invalid_option(query: str, reason: str) -> None:
    """The message is one line that names the option and the valid values, and has none of the given values."""
    with pytest.raises(ValueError, match=r"option|@|ssl") as caught:
        parse_database_url(f"{BASE}?{query}")

    assert reason in str(caught.value)
    assert "nter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["postgresql+asyncpg://u:hunter2@host:port", "postgresql+asyncpg://u:hunter2@[host"])
def test_invalid_url(url: str) -> None:
    """A URL that cannot be parsed is rejected without any of its parts."""
    with pytest.raises(ValueError, match="should be a URL like") as caught:
        parse_database_url(url)

    assert "hunter2" not in str(caught.value)


def test_added_options() -> None:
    """Added options replace those of the same name; the rest of the URL stays as it is."""
    url = add_options(f"{BASE}?ssl=require&sslrootcert=/old.pem", {"sslrootcert": "/new & old.pem"})

    assert url.startswith(f"{BASE}?")
    assert parse_database_url(url).options.ssl == "require"
    assert parse_database_url(url).options.sslrootcert == Path("/new & old.pem")
