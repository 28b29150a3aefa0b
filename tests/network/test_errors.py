"""Which errors of the operating system may go away without a change."""

import socket
import ssl

import pytest

from gateway.network.errors import is_network_error


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(111, "refused"),
        ConnectionResetError(104, "reset"),
        TimeoutError(),
        PermissionError(1, "operation not permitted"),  # a firewall of this machine rejects the connect
        socket.gaierror(socket.EAI_AGAIN, "try again"),
        OSError("Multiple exceptions"),
        FileNotFoundError(2, "no such file"),  # a Unix socket whose server has not started
        ssl.SSLEOFError(8, "closed during the handshake"),
    ],
    ids=repr,
)
def test_transient(error: Exception) -> None:
    """Errors of the network, and connections that the server closes, may go away without a change."""
    assert is_network_error(error)


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "permission denied", "/root/.postgresql/root.crt"),
        FileNotFoundError(2, "no such file", "/root/.postgresql/root.crt"),
        NotADirectoryError(20, "not a directory", "/dev/null/root.crt"),
        ssl.SSLCertVerificationError(1, "certificate verify failed"),
        ssl.SSLError(1, "wrong version number"),
        ValueError("another error"),
    ],
    ids=repr,
)
def test_permanent(error: Exception) -> None:
    """Files that cannot be read, certificates that are not valid and servers without TLS need a change."""
    assert not is_network_error(error)
