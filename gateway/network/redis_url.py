"""The URL of Redis: `redis://user:password@host:port/database`, or `rediss://` for TLS, with a few options.

redis-py would pass any other option to its connections: most fail at the first connection, some replace what the gateway
sets, and a path that is no number is ignored.
"""

from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

DEFAULT_PORT = 6379

# Options of redis-py that the variables of the gateway replace.
_FILE_VARIABLES = {
    "ssl_ca_certs": "GATEWAY_REDIS__CA_FILE",
    "ssl_certfile": "GATEWAY_REDIS__CERT_FILE",
    "ssl_keyfile": "GATEWAY_REDIS__KEY_FILE",
}
_TLS_OPTIONS = {
    "ssl_cert_reqs": {"required": True, "none": False},
    "ssl_check_hostname": {"true": True, "false": False},
}
_PROTOCOLS = {"2": 2, "3": 3}
_OPTIONS = ("db", "protocol", *_TLS_OPTIONS)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RedisURL:
    """The parts of the URL.

    Attributes:
        protocol: the version of Redis' protocol; servers before Redis 6 have only version 2.
        tls: connect with TLS.
        verify: demand a certificate that a trusted authority has signed.
        check_hostname: demand that the certificate is for the name of the host.
    """

    host: str
    port: int = DEFAULT_PORT
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0
    protocol: int = 3
    tls: bool = False
    verify: bool = True
    check_hostname: bool = True


def parse_redis_url(url: str) -> RedisURL:
    """Parse the URL.

    Raises:
        ValueError: it is not valid. The message names the option and has no secret.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise ValueError("should be a URL like redis://host:port or rediss://host:port")
    if "@" in f"{parts.path}{parts.query}{parts.fragment}":  # the rest of the password: no message may show it
        raise ValueError("has a user or password with one of / ? # in it: write them as %2F, %3F, %23")
    if parts.fragment:
        raise ValueError("should have no # in it")
    tls = parts.scheme == "rediss"
    options = _parse_options(parts.query, tls=tls)
    path = unquote(parts.path).strip("/")
    if path and "db" in options:
        raise ValueError("should have the number of the database once, in the path or as option 'db'")
    return RedisURL(
        host=unquote(parts.hostname),
        port=parts.port or DEFAULT_PORT,
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        database=_parse_database(options.get("db", path or "0")),
        protocol=_parse_choice("protocol", _PROTOCOLS, options, default=3),
        tls=tls,
        verify=_parse_choice("ssl_cert_reqs", _TLS_OPTIONS["ssl_cert_reqs"], options, default=True),
        check_hostname=_parse_choice("ssl_check_hostname", _TLS_OPTIONS["ssl_check_hostname"], options, default=True),
    )


def _parse_options(query: str, *, tls: bool) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in _FILE_VARIABLES:
            raise ValueError(f"has the option {name!r}: set {_FILE_VARIABLES[name]} instead")
        if name not in _OPTIONS:
            raise ValueError(f"has the option {name!r}, which is not supported: the options are {', '.join(_OPTIONS)}")
        if name in options:
            raise ValueError(f"has the option {name!r} twice")
        if name in _TLS_OPTIONS and not tls:
            raise ValueError(f"has the option {name!r}, which needs a URL with rediss://")
        options[name] = value
    return options


def _parse_database(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError("should have the number of the database as its path or as option 'db', such as /0")
    return int(text)


def _parse_choice(name: str, choices: dict[str, T], options: dict[str, str], *, default: T) -> T:
    if name not in options:
        return default
    try:
        return choices[options[name].lower()]
    except KeyError:
        raise ValueError(f"has a wrong value of the option {name!r}, which is {' or '.join(choices)}") from None
