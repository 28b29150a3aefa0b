"""A private RabbitMQ, 3.10 or later."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from urllib.parse import quote

from aio_pika import Connection
from aio_pika.connection import make_url
from aio_pika.exceptions import AMQPError

from gateway.devstack import ports
from gateway.devstack.folder import Reporter, silent
from gateway.devstack.server import DevstackError, Server, find_program

# Not /usr/sbin/rabbitmq-server: Debian's wrapper there only works for the users root and rabbitmq.
_FOLDERS = [Path("/usr/lib/rabbitmq/bin"), Path("/opt/rabbitmq/sbin")]

RIGHTS = r"^gateway\."  # to configure, write and read, as docs/events.md describes
_ACTOR = '<<"devstack">>'  # the user in the server's log

# Erlang expressions for rows of strings. Client properties are (name, type, value); a connection that is still opening has none.
_CONNECTIONS = """[
    [rabbit_misc:pid_to_string(Pid), case is_list(Properties) andalso lists:keyfind(<<"connection_name">>, 1, Properties) of
        {_, _, Name} -> Name;
        false -> ""
    end]
    || [{pid, Pid}, {client_properties, Properties}] <- rabbit_networking:connection_info_all([pid, client_properties])
]"""
_CHANNELS = """[
    [rabbit_misc:pid_to_string(Channel), rabbit_misc:pid_to_string(Connection)]
    || [{pid, Channel}, {connection, Connection}] <- rabbit_channel:info_all([pid, connection])
]"""
_CONSUMERS = """[
    [rabbit_misc:pid_to_string(proplists:get_value(channel_pid, Consumer))]
    || Consumer <- rabbit_amqqueue:consumers_all(<<"gateway">>)
]"""


class RabbitMQServer(Server):
    """A private RabbitMQ with an epmd of its own, a vhost `gateway`, and a user `gateway` that has only `RIGHTS` in it."""

    name = "RabbitMQ"
    url_variable = "GATEWAY_RABBITMQ__URL"
    port_in_use_pattern = "eaddrinuse|dist_port_already_used|nodistribution"
    number_of_ports = 3  # for clients, for Erlang's distribution (used by the tools), for epmd

    def __init__(self, folder: Path, *, report: Reporter = silent) -> None:
        super().__init__(folder, report=report)
        self._password = secrets.token_hex(16)
        self._numbers = count(1)

    @property
    def url(self) -> str:
        return self.url_of("gateway")

    def url_of(self, vhost: str) -> str:
        """Return the URL of another vhost."""
        return f"amqp://gateway:{self._password}@{ports.LOOPBACK}:{self.port}/{quote(vhost, safe='')}"

    @property
    def _node(self) -> str:
        return f"gateway-{self.port}@localhost"

    def command(self) -> list[str]:
        return [_program("rabbitmq-server")]

    def environment(self) -> dict[str, str]:
        clients, distribution, epmd = map(str, self.ports)
        return super().environment() | {
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_NODE_IP_ADDRESS": ports.LOOPBACK,
            "RABBITMQ_NODE_PORT": clients,
            "RABBITMQ_DIST_PORT": distribution,
            "ERL_EPMD_PORT": epmd,
            "ERL_EPMD_ADDRESS": ports.LOOPBACK,
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "none.conf"),  # instead of the system's file
            "RABBITMQ_CONFIG_FILES": str(self.folder / "none.d"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            # With this, the start script execs the server instead of forwarding signals to it.
            "RUNNING_UNDER_SYSTEMD": "true",
            # Distribution on loopback only; no busy waiting of idle schedulers, which would slow the tests.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none +sbwtdio none"
            ),
        }

    async def prepare(self) -> None:
        _program("rabbitmq-server")  # raises early if it is not installed
        self.write(".erlang.cookie", secrets.token_hex(16)).chmod(0o400)
        self.write("enabled_plugins", "[].\n")
        # RabbitMQ takes two seconds at each start to translate a rabbitmq.conf into this format.
        self.write(
            "advanced.config",
            f"""\
[{{rabbit, [
    {{default_vhost, <<"gateway">>}},
    {{default_user, <<"gateway">>}},
    {{default_pass, <<"{self._password}">>}},
    {{default_user_tags, []}},
    {{default_permissions, [{", ".join([_binary(RIGHTS)] * 3)}]}},
    {{log, [{{console, [{{enabled, true}}]}}, {{file, [{{file, false}}]}}]}}
]}}].
""",
        )

    async def probe(self) -> bool:
        try:
            _, writer = await asyncio.open_connection(ports.LOOPBACK, self.port)
            writer.close()  # checked first, because aio-pika logs each refused connection
            async with Connection(
                make_url(self.url)
            ) as connection:  # closed also if it fails: the finalizer starts a task
                await connection.connect(timeout=0.9)  # below PROBE_TIMEOUT: a cancelled connect leaks
        except (OSError, AMQPError):
            return False
        return True

    async def add_vhost(self, name: str, *, rights: str | None = ".*") -> str:
        """Create a vhost and return its URL.

        Args:
            name: of the vhost.
            rights: a regular expression for the names of exchanges and queues that user `gateway` may configure, write and
                read; None: it may not use the vhost.
        """
        steps = [f"ok = rabbit_vhost:add({_binary(name)}, {_ACTOR})"]
        if rights is not None:
            arguments = [_binary("gateway"), _binary(name), *[_binary(rights)] * 3, _ACTOR]
            steps.append(f"ok = rabbit_auth_backend_internal:set_permissions({', '.join(arguments)})")
        await self._evaluate(*steps)
        await self.sync()
        return self.url_of(name)

    @asynccontextmanager
    async def max_message_size(self, size: int) -> AsyncIterator[None]:
        """Limit the size of messages, in bytes, for channels that are opened inside the block."""
        # Some versions read the application's environment, others the persistent term.
        apply = "application:set_env(rabbit, max_message_size, Size), persistent_term:put(max_message_size, Size)"
        save = "{ok, Saved} = application:get_env(rabbit, max_message_size), persistent_term:put(devstack_saved, Saved)"
        await self._evaluate(save, f"Size = {size}", apply)
        try:
            yield
        finally:
            await self._evaluate("Size = persistent_term:get(devstack_saved)", apply)

    async def add_user(self, name: str, vhost: str, *, configure: str, write: str, read: str) -> str:
        """Create a user and return its URL of a vhost.

        Args:
            name: of the user.
            vhost: the vhost that the user may access.
            configure: a regular expression for the names of exchanges and queues that the user may configure.
            write: the same for writing.
            read: the same for reading.
        """
        password = secrets.token_hex(16)
        await self._evaluate(
            f"ok = rabbit_auth_backend_internal:add_user({_binary(name)}, {_binary(password)}, {_ACTOR})"
        )
        await self.set_permissions(name, vhost, configure=configure, write=write, read=read)
        return f"amqp://{name}:{password}@{ports.LOOPBACK}:{self.port}/{quote(vhost, safe='')}"

    async def set_permissions(self, user: str, vhost: str, *, configure: str, write: str, read: str) -> None:
        """Change the permissions of a user; see `add_user()`. Open channels may keep the old ones."""
        arguments = ", ".join(map(_binary, (user, vhost, configure, write, read)))
        await self._evaluate(f"ok = rabbit_auth_backend_internal:set_permissions({arguments}, {_ACTOR})")

    async def change_password(self, user: str) -> None:
        """Give a user a new password. Its connections stay open."""
        arguments = f"{_binary(user)}, {_binary(secrets.token_hex(16))}, {_ACTOR}"
        await self._evaluate(f"ok = rabbit_auth_backend_internal:change_password({arguments})")

    async def delete_user(self, name: str) -> None:
        """Delete a user and close its connections."""
        await self._evaluate(f"ok = rabbit_auth_backend_internal:delete_user({_binary(name)}, {_ACTOR})")

    async def limit_connections(self, vhost: str, limit: int) -> None:
        """Set the number of connections that a vhost permits. Open connections stay; -1 removes the limit."""
        limits = f'[{{<<"max-connections">>, {limit}}}]'
        await self._evaluate(f"ok = rabbit_vhost_limit:set({_binary(vhost)}, {limits}, {_ACTOR})")

    async def close_connections(self, name: str) -> None:
        """Close the connections whose `connection_name` is `name`, as an operator does."""
        pids = [pid for pid, connection_name in (await self._connections()).items() if connection_name == name]
        for pid in pids:
            close = (
                f'rabbit_networking:close_connection(rabbit_misc:string_to_pid({json.dumps(pid)}), "by the devstack")'
            )
            await self._evaluate(f"ok = {close}")

    @asynccontextmanager
    async def tls_listener(self, *, ca_file: Path, cert_file: Path, key_file: Path) -> AsyncIterator[int]:
        """Listen for TLS inside the block; yield the port. Clients may present a certificate of the authority.

        The files must be readable for the server's user. A restart of the server ends the listener.
        """
        files = {"cacertfile": ca_file, "certfile": cert_file, "keyfile": key_file}
        options = ", ".join(f"{{{name}, {json.dumps(str(path))}}}" for name, path in files.items())
        options += ", {verify, verify_peer}, {fail_if_no_peer_cert, false}"
        with ports.reserve() as reserved:
            port = reserved.getsockname()[1]
            address = f'{{"{ports.LOOPBACK}", {port}}}'
            await self._evaluate(
                "{ok, _} = application:ensure_all_started(ssl)",
                f"ok = rabbit_networking:start_ssl_listener({address}, [{options}], 2)",
            )
            try:
                yield port
            finally:
                await self._evaluate(f"rabbit_networking:stop_tcp_listener({address})")

    async def sync(self) -> None:
        """Write all definitions (vhosts, exchanges, queues) to disk, so that they survive a kill.

        RabbitMQ writes them in the background. Without its entry in the directory of quorum queues, a queue has no leader.
        """
        # Later versions may not use Mnesia. A table may be closed meanwhile, because its vhost is being deleted.
        await self._evaluate("catch mnesia:sync_log()", "[catch dets:sync(Table) || Table <- dets:all()]")

    async def delete_vhost(self, name: str, *, wait: bool = True) -> None:
        """Delete a vhost and close its connections.

        RabbitMQ 3.10 has a bug: a queue that is deleted while its dead-letter worker starts crashes the worker. A few such
        crashes end the supervisor of all dead-letter workers, and then every queue with at-least-once dead-lettering fails
        until a restart. So this method first waits until the workers of the vhost have started.

        Args:
            name: of the vhost.
            wait: return when it is deleted. Quorum queues may take five seconds after a restart of the server.
        """
        steps = ", ".join(
            [
                # A leader starts its worker before it replies. The id of a quorum queue is a tuple.
                "Ids = [amqqueue:get_pid(Queue) || Queue <- rabbit_amqqueue:list(VHost)]",
                "[catch ra:members(Id, 10000) || Id <- Ids, is_tuple(Id)]",
                # A worker replies when it has started.
                "Workers = [Pid || {_, Pid, _, _} <- supervisor:which_children(rabbit_fifo_dlx_sup), is_pid(Pid)]",
                "[catch sys:get_state(Pid, 10000) || Pid <- Workers]",
                f"rabbit_vhost:delete(VHost, {_ACTOR})",
            ]
        )
        delete = f"fun(VHost) -> {steps} end"
        if wait:
            await self._evaluate(f"ok = ({delete})({_binary(name)})")
        else:
            await self._evaluate(f"Delete = {delete}", f"spawn(fun() -> Delete({_binary(name)}) end)")

    @asynccontextmanager
    async def memory_alarm(self) -> AsyncIterator[None]:
        """Raise the memory alarm inside the block: RabbitMQ blocks connections that publish."""
        limit = "ok = vm_memory_monitor:set_vm_memory_high_watermark"
        await self._evaluate(limit + '({absolute, "1"})')
        try:
            yield
        finally:
            await self._evaluate(limit + "(0.4)")

    async def clients(self) -> list[str]:
        """Return the `connection_name` of each connection, "" for one without a name."""
        return sorted((await self._connections()).values())

    async def list_client_objects(self) -> dict[str, list[str]]:
        """List the connections, channels, and consumers of vhost `gateway` by their `connection_name`."""
        names = await self._connections()
        connections_of_channels = dict(await self._rows(_CHANNELS))
        channels = {pid: names.get(connection, "") for pid, connection in connections_of_channels.items()}
        consumers = await self._rows(_CONSUMERS)
        return {
            "connections": sorted(names.values()),
            "channels": sorted(channels.values()),
            "consumers": sorted(channels.get(channel, "") for (channel,) in consumers),
        }

    async def _connections(self) -> dict[str, str]:
        """Return the `connection_name` of each connection, by its Erlang process."""
        return dict(await self._rows(_CONNECTIONS))

    async def _rows(self, rows: str) -> list[list[str]]:
        """Return the value of an Erlang expression for a list of rows. Each row is a list of strings."""
        path = self.folder / f"rows-{next(self._numbers)}"
        lines = f'[[lists:join("\\t", Row), "\\n"] || Row <- {rows}]'
        await self._evaluate(f"ok = file:write_file({json.dumps(str(path))}, {lines})")
        printed = path.read_text()
        path.unlink()
        return [line.split("\t") for line in printed.splitlines()]

    async def _evaluate(self, *steps: str) -> None:
        """Evaluate Erlang expressions on the server with `erl_call`, which takes milliseconds; `rabbitmqctl` takes hundreds.

        Raises:
            DevstackError: an expression failed.
        """
        erl_call = find_program("erl_call", package="erlang-base")
        printed = await self.run(erl_call, "-n", self._node, "-e", text=", ".join(steps) + ".\n")
        if not printed.startswith("{ok,"):
            raise DevstackError(f"{self.name}: {printed}")


def _program(name: str) -> str:
    return find_program(name, package="rabbitmq-server", folders=_FOLDERS)


def _binary(text: str) -> str:
    """Return the text as an Erlang binary of UTF-8 bytes. As numbers they need no escapes; erl_call reads Latin-1."""
    return f"<<{','.join(map(str, text.encode()))}>>"
