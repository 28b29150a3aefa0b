"""Loopback ports that stay reserved while their server is down."""

import random
import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"
MIN_PORT = 10_000
ATTEMPTS = 100


def reserve() -> socket.socket:
    """Bind a free loopback port without listening on it. The port stays reserved until the socket is closed.

    A server that sets SO_REUSEADDR can still listen on it, as all servers of the devstack do.

    The port is below the range of the ports for outgoing connections. Inside that range, a client that keeps trying to
    connect to a stopped server may get the server's port as its own, and connect to itself.

    Raises:
        OSError: no port is free.
    """
    end = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in random.sample(range(MIN_PORT, max(end, MIN_PORT + 1_000)), ATTEMPTS):
        reserved = socket.socket()
        try:
            reserved.bind((LOOPBACK, port))  # without SO_REUSEADDR: fails if another socket is bound to the port
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        except OSError:
            reserved.close()
        else:
            return reserved
    raise OSError("no free port on the loopback interface")
