"""A private RabbitMQ, 3.10 or later."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aio_pika

from gateway.devstack import ports
from gateway.devstack.folder import Report, say_nothing
from gateway.devstack.server import Server, find_program

# Debian's /usr/sbin/rabbitmq-server is a wrapper that refuses every user but root and rabbitmq.
_FOLDERS = [Path("/usr/lib/rabbitmq/bin"), Path("/opt/rabbitmq/sbin")]


class RabbitMQ(Server):
    """A private RabbitMQ with a user `gateway` and a vhost `gateway`, and an epmd of its own."""

    name = "RabbitMQ"
    port_taken = "eaddrinuse|dist_port_already_used|nodistribution"
    number_of_ports = 3  # for clients, for the tools (Erlang's distribution), for epmd

    def __init__(self, folder: Path, *, report: Report = say_nothing) -> None:
        super().__init__(folder, report=report)
        self._password = secrets.token_hex(16)

    @property
    def url(self) -> str:
        return self.url_of("gateway")

    def url_of(self, vhost: str) -> str:
        """The URL of another vhost."""
        return f"amqp://gateway:{self._password}@{ports.LOOPBACK}:{self.port}/{quote(vhost, safe='')}"

    def command(self) -> list[str]:
        return [_program("rabbitmq-server")]

    def environment(self) -> dict[str, str]:
        clients, distribution, epmd = map(str, self.ports)
        return super().environment() | {
            "RABBITMQ_NODENAME": f"gateway-{clients}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": ports.LOOPBACK,
            "RABBITMQ_NODE_PORT": clients,
            "RABBITMQ_DIST_PORT": distribution,
            "ERL_EPMD_PORT": epmd,
            "ERL_EPMD_ADDRESS": ports.LOOPBACK,
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "none.conf"),  # not the system's
            "RABBITMQ_CONFIG_FILES": str(self.folder / "none.d"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            # The script becomes the server then, instead of a shell that waits for it and forwards signals.
            "RUNNING_UNDER_SYSTEMD": "true",
            # Its tools reach it over loopback only; an idle server leaves the cores to those who test against it.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none"
            ),
        }

    async def prepare(self) -> None:
        _program("rabbitmq-server")  # missing: say so before anything is made
        self.write(".erlang.cookie", secrets.token_hex(16)).chmod(0o400)
        self.write("enabled_plugins", "[].\n")
        # In Erlang's own terms: to translate a rabbitmq.conf into them takes RabbitMQ two seconds at every start.
        self.write(
            "advanced.config",
            f"""\
[{{rabbit, [
    {{default_vhost, <<"gateway">>}},
    {{default_user, <<"gateway">>}},
    {{default_pass, <<"{self._password}">>}},
    {{log, [{{console, [{{enabled, true}}]}}, {{file, [{{file, false}}]}}]}}
]}}].
""",
        )

    async def probe(self) -> bool:
        try:
            _, writer = await asyncio.open_connection(ports.LOOPBACK, self.port)
            writer.close()  # its client library writes a line to the log for each refusal
            connection = await aio_pika.connect(self.url, timeout=0.9)  # cancelled, it would leak
        except (OSError, aio_pika.exceptions.AMQPError):
            return False
        await connection.close()
        return True

    async def add_vhost(self, name: str, *, allowed: bool = True) -> str:
        """Make another vhost, which user `gateway` may use unless it is not `allowed` to; return its URL. Takes a second."""
        everything = {"user": "gateway", "vhost": name, "configure": ".*", "write": ".*", "read": ".*"}
        definitions = {"vhosts": [{"name": name}], "permissions": [everything] if allowed else []}
        await self._control("import_definitions", str(self.write("definitions.json", json.dumps(definitions))))
        return self.url_of(name)

    async def delete_vhost(self, name: str) -> None:
        """Delete a vhost, its connections too."""
        await self._control("delete_vhost", name)

    @asynccontextmanager
    async def alarmed(self) -> AsyncIterator[None]:
        """Within the block it is short of memory, by its own measure: whoever publishes is blocked."""
        await self._control("set_vm_memory_high_watermark", "absolute", "1")
        try:
            yield
        finally:
            await self._control("set_vm_memory_high_watermark", "0.4")

    async def clients(self) -> list[str]:
        """The `connection_name` of each connection, empty for one without. Takes half a second."""
        return sorted((await self._connections()).values())

    async def census(self) -> dict[str, list[str]]:
        """Connections, channels, and consumers of vhost `gateway`: the `connection_name` of each. Takes two seconds."""
        names = await self._connections()
        channels = {
            row["pid"]: names.get(row["connection"], "") for row in await self._list("channels", "pid", "connection")
        }
        consumers = await self._list("consumers", "-p", "gateway", "channel_pid")
        return {
            "connections": sorted(names.values()),
            "channels": sorted(channels.values()),
            "consumers": sorted(channels.get(row["channel_pid"], "") for row in consumers),
        }

    async def _connections(self) -> dict[str, str]:
        """The `connection_name` of each connection by its process."""
        rows = await self._list("connections", "pid", "client_properties")
        # Properties are lists of name, type and value.
        properties = {row["pid"]: {name: value for name, _, value in row["client_properties"]} for row in rows}
        return {pid: some.get("connection_name", "") for pid, some in properties.items()}

    async def _list(self, what: str, *columns: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(await self._control(f"list_{what}", "--formatter=json", *columns))
        return rows

    async def _control(self, *arguments: str) -> str:
        return await self.run(_program("rabbitmqctl"), "--quiet", *arguments)


def _program(name: str) -> str:
    return find_program(name, package="rabbitmq-server", folders=_FOLDERS)
