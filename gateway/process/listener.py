"""The listening socket: bound before the startup, so that a port in use fails at once; it listens after the startup."""

import socket

from gateway.network.addresses import is_loopback


class BindError(Exception):
    """The address cannot be bound. The message has the reason, and the options to change."""


def bind_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to the address and does not listen yet: no other process can bind it, no client can connect.

    Raises:
        BindError: another process has bound the address, or it is no address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        try:
            # With SO_REUSEADDR on both, Linux binds two sockets to one address as long as neither listens.
            return _bind(family, kind, protocol, address, reuse=False)
        except OSError:
            # The reason may be connections of an earlier process in TIME_WAIT. SO_REUSEADDR ignores these.
            return _bind(family, kind, protocol, address, reuse=True)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BindError(f"{host} port {port}: {reason.lower()}: choose another --host or --port") from error


def enable_address_reuse(listener: socket.socket) -> None:
    """Set SO_REUSEADDR just before listening, so that a restart can bind while old connections are in TIME_WAIT.

    Set earlier, it would let another process bind the same address. Accepted connections inherit it.
    """
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"


def listens_on_loopback(listener: socket.socket) -> bool:
    """Return whether only this machine can connect to the socket."""
    return is_loopback(listener.getsockname()[0])


def _bind(family: int, kind: int, protocol: int, address: tuple[object, ...], *, reuse: bool) -> socket.socket:
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        listener.bind(address)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError:
        listener.close()
        raise
    return listener
