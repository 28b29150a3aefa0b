"""Addresses of hosts. A connection races all addresses of a name (RFC 8305), so that a dead one costs a fraction of a second."""

import asyncio
import ipaddress
import socket

from aiohappyeyeballs import start_connection

ATTEMPT_DELAY = 0.25  # seconds until the next address is tried, too; RFC 8305 recommends it


async def open_socket(host: str, port: int) -> socket.socket:
    """Return a connected, non-blocking TCP socket, to the first address of `host` that accepts the connection.

    Raises:
        OSError: the name cannot be resolved, or no address accepts the connection.
    """
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return await start_connection(infos, happy_eyeballs_delay=ATTEMPT_DELAY, interleave=1)


async def reachable_address(host: str, port: int) -> str:
    """Return an IP address of `host` that accepts connections, for libraries that open their sockets themselves.

    A host with one address is not tested.

    Raises:
        OSError: the name cannot be resolved, or no address accepts the connection.
    """
    if _is_ip_address(host):
        return host
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    if len(infos) == 1:
        return str(infos[0][4][0])
    with await start_connection(infos, happy_eyeballs_delay=ATTEMPT_DELAY, interleave=1) as connected:
        return str(connected.getpeername()[0])


def is_loopback(host: str) -> bool:
    """Return whether a host is `localhost` or a loopback address. No name is resolved."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
