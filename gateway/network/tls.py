"""TLS contexts for the connections to all servers, from the files that the settings name."""

import ssl
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class TLSFiles:
    """The files for TLS, all in PEM format.

    Attributes:
        ca_file: the certificate authorities to trust; those of the system if None.
        cert_file: the certificate of this client, if the server demands one.
        key_file: its private key; in `cert_file` if None.
    """

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


class TLSFileError(Exception):
    """A file for TLS cannot be used. The message has its path and the reason.

    Attributes:
        field: the field of `TLSFiles` that names the file.
    """

    def __init__(self, field: str, path: Path, reason: str) -> None:
        super().__init__(f"{str(path)!r} {reason}")
        self.field = field


def client_context(files: TLSFiles, *, verify: bool = True, check_hostname: bool = True) -> ssl.SSLContext:
    """Return the context for connections to a server.

    Args:
        files: the files to load.
        verify: demand a certificate that a trusted authority has signed.
        check_hostname: demand that the certificate is for the name of the host.

    Raises:
        TLSFileError: a file is missing or unreadable, its content is not valid, or a private key has no certificate.
    """
    context = ssl.create_default_context() if files.ca_file is None else _context_with_authorities(files.ca_file)
    context.check_hostname = verify and check_hostname
    context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
    if files.key_file is not None and files.cert_file is None:
        raise TLSFileError("key_file", files.key_file, "is a private key without a certificate: set both")
    if files.cert_file is not None:
        _load_certificate(context, files.cert_file, files.key_file)
    return context


def fix_server_name(context: ssl.SSLContext, name: str) -> None:
    """Make each handshake of the context use `name`, for libraries that take the address that they connect to.

    It replaces the argument `server_hostname`, which is sent to the server and compared with the certificate.
    """
    wrap_bio = context.wrap_bio

    def wrap_bio_with_name(*args: Any, **kwargs: Any) -> ssl.SSLObject:
        return wrap_bio(*args, **kwargs | {"server_hostname": name})

    context.wrap_bio = wrap_bio_with_name  # type: ignore[method-assign]


def _context_with_authorities(ca_file: Path) -> ssl.SSLContext:
    _check_readable("ca_file", ca_file)
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (ssl.SSLError, ValueError) as error:
        raise TLSFileError("ca_file", ca_file, "has no certificate in PEM format") from error


def _load_certificate(context: ssl.SSLContext, cert_file: Path, key_file: Path | None) -> None:
    _check_readable("cert_file", cert_file)
    if b"-----BEGIN CERTIFICATE-----" not in cert_file.read_bytes():
        raise TLSFileError("cert_file", cert_file, "has no certificate in PEM format")
    if key_file is not None:
        _check_readable("key_file", key_file)
    try:
        # Without a password, OpenSSL would read one from the terminal.
        context.load_cert_chain(cert_file, key_file, password=lambda: b"")
    except (ssl.SSLError, ValueError) as error:
        field, path = ("cert_file", cert_file) if key_file is None else ("key_file", key_file)
        raise TLSFileError(field, path, "has no private key without a password that fits the certificate") from error


def _check_readable(field: str, path: Path) -> None:
    """Read a byte. The errors of OpenSSL do not name the file, and it would wait for the writer of a FIFO."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise TLSFileError(field, path, "is not a regular file")
        with path.open("rb") as file:
            file.read(1)
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise TLSFileError(field, path, f"cannot be read: {reason.lower()}") from error
