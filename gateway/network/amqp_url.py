"""The options in the query of an AMQP URL. The client library ignores those that it does not know."""

from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

AUTHENTICATIONS = ("plain", "external")
DEFAULT_HEARTBEAT = 15  # seconds; the connection counts as lost after three missed heartbeats
MAX_HEARTBEAT = 600
_FILES = {"cafile": "CA_FILE", "certfile": "CERT_FILE", "keyfile": "KEY_FILE"}


@dataclass(frozen=True, slots=True)
class AMQPOptions:
    """The options of a connection.

    Attributes:
        auth: one of `AUTHENTICATIONS`; `external` is by the certificate of the client.
        heartbeat: seconds between heartbeats.
        verify: verify the certificate of the server.
    """

    auth: str = "plain"
    heartbeat: int = DEFAULT_HEARTBEAT
    verify: bool = True


def amqp_options(url: str) -> AMQPOptions:
    """Parse the query of a URL.

    Raises:
        ValueError: an option is unknown, without effect or there twice, or has an invalid value. The message names it, and shows no value.
    """
    options = AMQPOptions()
    parts = urlsplit(url)
    values: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name in _FILES:
            raise ValueError(f"the option {name} is not supported: set GATEWAY_RABBITMQ__{_FILES[name]} to the file")
        if name not in {"auth", "heartbeat", "no_verify_ssl"}:
            raise ValueError(
                f"the option {name!r} is unknown: remove it, the options are auth, heartbeat, no_verify_ssl"
            )
        if name in values:
            raise ValueError(f"the option {name} is there twice: remove one of them")
        if name == "no_verify_ssl" and parts.scheme != "amqps":
            raise ValueError("the option no_verify_ssl has no effect without TLS: remove it, or use amqps://")
        values[name] = value
    auth = values.get("auth", options.auth).lower()
    if auth not in AUTHENTICATIONS:
        raise ValueError(f"the option auth should be one of {', '.join(AUTHENTICATIONS)}")
    heartbeat = values.get("heartbeat", str(options.heartbeat))
    if not (heartbeat.isascii() and heartbeat.isdecimal() and 1 <= int(heartbeat) <= MAX_HEARTBEAT):
        raise ValueError(f"the option heartbeat should be a number of seconds from 1 to {MAX_HEARTBEAT}")
    no_verify_ssl = values.get("no_verify_ssl", "0")
    if no_verify_ssl not in {"0", "1"}:
        raise ValueError("the option no_verify_ssl should be 0 or 1")
    return AMQPOptions(auth, int(heartbeat), verify=no_verify_ssl == "0")
