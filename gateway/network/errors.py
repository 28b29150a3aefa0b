"""The errors of the operating system: those of the network are transient, those of files and of TLS are not."""

import ssl

# The server closed the connection during the handshake.
_TRANSIENT_TLS_ERRORS = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


def is_network_error(error: BaseException) -> bool:
    """Return whether an error is one of the network, which may go away without a change.

    An error of a file, which has its name, is not: permission denied, no such file. Nor is a certificate that is not valid,
    or a server without TLS. `OSError` is the base class of all of them. A `PermissionError` without the name of a file comes
    from a firewall of this machine, whose rules may change while a container starts.
    """
    if isinstance(error, ssl.SSLError):
        return isinstance(error, _TRANSIENT_TLS_ERRORS)
    return isinstance(error, OSError) and error.filename is None
