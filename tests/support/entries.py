"""The entries of the gateway's lifespan: one table that the tests read. A new resource is one more row."""

from dataclasses import dataclass, field
from typing import Literal

from faultlab import InjectionPoint
from gateway.devstack.server import Server
from gateway.devstack.stack import Devstack
from gateway.settings import Settings

SweptPhase = Literal["startup", "teardown", "rollback"]

_ITERATION, _STEP = InjectionPoint.LOOP_ITERATION, InjectionPoint.TASK_STEP


@dataclass(frozen=True, kw_only=True)
class EntrySpec:
    """One entry of the lifespan.

    Attributes:
        name: its name in settings, journal and errors.
        server: its name in `Devstack`, or "" without a server.
        protocol: the name of the server's protocol in `faultlab.wire`.
        location_setting: the setting that has the URL of its server, or the path of its file.
        named_messages: wire messages of a startup that people know by name. A sweep over all of them takes minutes.
        close_message: the client's last message before it closes a connection gracefully, if the protocol has one.
        min_messages: the wire messages that a startup was always seen to have. Fewer mean that a sweep misses some.
        min_points: the same for the injection points of a startup and of a teardown.
    """

    name: str
    server: str = ""
    protocol: str = ""
    location_setting: str = "url"
    named_messages: tuple[str, ...] = ()
    close_message: str = ""
    min_messages: int = 0
    min_points: dict[tuple[SweptPhase, InjectionPoint], int] = field(default_factory=dict)


TABLE = [
    EntrySpec(name="http", server="weather", protocol="http", location_setting="weather_url"),
    EntrySpec(
        name="database",
        server="postgresql",
        protocol="postgresql",
        named_messages=("Startup", "AuthenticationSASL", "ReadyForQuery", "Query"),
        close_message="Terminate",
        min_messages=60,
        min_points={
            ("startup", _ITERATION): 35,
            ("startup", _STEP): 18,
            ("teardown", _ITERATION): 3,
            ("teardown", _STEP): 1,
        },
    ),
    EntrySpec(
        name="redis",
        server="redis",
        protocol="redis",
        named_messages=("HELLO", "AUTH", "EVAL"),
        min_messages=10,
        min_points={
            ("startup", _ITERATION): 12,
            ("startup", _STEP): 6,
            ("teardown", _ITERATION): 3,
            ("teardown", _STEP): 3,
        },
    ),
    EntrySpec(
        name="rabbitmq",
        server="rabbitmq",
        protocol="amqp",
        named_messages=("Connection.Start", "Connection.Tune", "Connection.Open", "Channel.Open", "Confirm.Select"),
        close_message="Connection.Close",
        min_messages=13,
        min_points={
            ("startup", _ITERATION): 12,
            ("startup", _STEP): 12,
            ("teardown", _ITERATION): 20,
            ("teardown", _STEP): 20,
        },
    ),
    EntrySpec(name="model", location_setting="path"),
    EntrySpec(name="relay"),
    EntrySpec(name="writer"),
    EntrySpec(name="views"),
    EntrySpec(name="briefs"),
]

BY_NAME = {entry.name: entry for entry in TABLE}
ENTRIES = [entry.name for entry in TABLE]  # in the order in which the lifespan enters them
WITH_SERVER = [entry.name for entry in TABLE if entry.server]
CONNECTED = [
    "database",
    "redis",
    "rabbitmq",
]  # connected by the startup; the HTTP client connects with its first request
RESOURCES = [name for name in ENTRIES if name in Settings.model_fields]
WORKERS = [name for name in ENTRIES if name not in RESOURCES]


def entries_before(name: str) -> list[str]:
    """Return the entries that are entered before this one."""
    return ENTRIES[: ENTRIES.index(name)]


def server_for(entry: str, servers: Devstack) -> Server:
    """Return the server of a resource."""
    return servers.by_name[BY_NAME[entry].server]
