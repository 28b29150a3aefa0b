"""Loopback ports that stay ours, also while their server is down."""

import random
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"

_LOWEST = 10_000


def reserve() -> socket.socket:
    """Bind a free loopback port without listening on it; it is ours until the socket is closed.

    A server that sets SO_REUSEADDR, as ours do, can listen on it all the same; nobody else is given it. The port is
    below the range from which the system takes the ports of outgoing connections: in that range a client that tries
    again and again to reach a server that is down would one day connect to itself.

    Raises:
        OSError: no port is free.
    """
    end = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in random.sample(range(_LOWEST, max(end, _LOWEST + 1_000)), 100):
        holder = socket.socket()
        try:
            holder.bind((LOOPBACK, port))  # without SO_REUSEADDR: fails if anybody else has it
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        except OSError:
            holder.close()
        else:
            return holder
    raise OSError("no free port on the loopback interface")
