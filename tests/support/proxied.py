"""A proxy in front of each server, and settings that lead through the proxies."""

import re
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from faultlab.wire import Proxy, WireLog
from gateway.devstack.stack import Devstack
from gateway.settings import Settings
from tests.support.entries import BY_NAME, WITH_SERVER, server_for


@dataclass
class ProxiedServers:
    """The proxies, by the names of the resources. All of them write to one log."""

    proxies: dict[str, Proxy]
    log: WireLog

    def __getitem__(self, entry: str) -> Proxy:
        return self.proxies[entry]

    def route(self, settings: Settings) -> Settings:
        """Return the settings with the ports of the proxies; paths and passwords stay."""
        groups = {}
        for entry, proxy in self.proxies.items():
            name, group = BY_NAME[entry].location_setting, getattr(settings, entry)
            url = re.sub(r":\d+(?=/|$)", f":{proxy.port}", getattr(group, name).get_secret_value())
            groups[entry] = type(group)(**(dict(group) | {name: url}))
        return settings.model_copy(update=groups)

    def open_connections(self) -> list[str]:
        """Return a line for each connection that its client has not closed."""
        return [
            f"wire {entry} {connection.number}"
            for entry, proxy in self.proxies.items()
            for connection in proxy.open_connections
        ]


@asynccontextmanager
async def proxied(servers: Devstack) -> AsyncGenerator[ProxiedServers]:
    """Put a proxy in front of each server."""
    log = WireLog()
    async with AsyncExitStack() as stack:
        proxies = {}
        for entry in WITH_SERVER:
            port = server_for(entry, servers).port
            proxy = Proxy(entry, BY_NAME[entry].protocol, "127.0.0.1", port, log=log)
            proxies[entry] = await stack.enter_async_context(proxy)
        yield ProxiedServers(proxies, log)
