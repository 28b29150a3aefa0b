"""The address to serve on: taken before anything is entered, listened on after the startup."""

import ipaddress
import socket


class PortTakenError(Exception):
    """The address cannot be had; the message says why, and what to do."""


def bind_socket(host: str, port: int) -> socket.socket:
    """Bind the address without listening on it: nobody else can have it from now on, and nobody is connected yet.

    Raises:
        PortTakenError: somebody has it, or it is no address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        try:
            # Linux lets two sockets have one address if both want to reuse it, as long as neither listens: ours must not.
            return _bound(family, kind, protocol, address, reuse=False)
        except OSError:
            # What is in the way may be connections that our predecessor closed a minute ago: these may be reused.
            return _bound(family, kind, protocol, address, reuse=True)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise PortTakenError(f"{host} port {port}: {reason.lower()}: choose another --host or --port") from error


def enable_address_reuse(listener: socket.socket) -> None:
    """Before it listens: let a successor have the address while connections to it are still winding up.

    Not earlier, for then another could have it as well. What is accepted inherits this.
    """
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"


def on_loopback(listener: socket.socket) -> bool:
    """Whether only this machine can connect to it."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback


def _bound(family: int, kind: int, protocol: int, address: tuple[object, ...], *, reuse: bool) -> socket.socket:
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        listener.bind(address)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError:
        listener.close()
        raise
    return listener
