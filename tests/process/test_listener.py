"""The listening socket: it is bound before it listens, and can be bound again after a restart."""

import socket

import pytest

from gateway.process.listener import BindError, bind_socket, enable_address_reuse


def test_bound_before_it_listens() -> None:
    """A bound socket keeps other processes from binding the port, and refuses connections until it listens."""
    with bind_socket("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(BindError):
            bind_socket("127.0.0.1", port)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))


def test_port_can_be_bound_again_after_a_restart() -> None:
    """The port can be bound again while closed connections to it are in TIME_WAIT."""
    with bind_socket("127.0.0.1", 0) as listener:
        enable_address_reuse(listener)
        listener.listen()
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = listener.accept()
            accepted.close()  # the side that closes first is the one in TIME_WAIT
            assert client.recv(1) == b""

    bind_socket("127.0.0.1", port).close()


@pytest.mark.parametrize("host", ["no such host", "256.1.1.1", "\0", "192.0.2.1"])
def test_address_that_cannot_be_bound(host: str) -> None:
    """The error names the option to change."""
    with pytest.raises(BindError, match="--host"):
        bind_socket(host, 0)
