"""A pytest plugin: certificates of an authority of our own for clients and servers, valid and invalid, as PEM files."""

import os
import pwd
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from gateway.devstack.stack import Devstack

CLIENT_NAME = "gateway"  # the common name in the client's certificate; PostgreSQL takes it as the user


@dataclass(frozen=True, slots=True)
class Certificate:
    """The files of a certificate and its private key."""

    cert_file: Path
    key_file: Path


@dataclass(frozen=True, slots=True)
class Certificates:
    """The files of two authorities and their certificates.

    Attributes:
        ca_file: the authority that clients and servers trust.
        other_ca_file: an authority that they do not trust.
        server: a valid certificate for the names of the server.
        expired_server: one for the same names that is not valid any more.
        misnamed_server: one for the name of another host.
        untrusted_server: one for the same names, signed by the other authority.
        client: a valid certificate of a client.
        untrusted_client: one of a client, signed by the other authority.
    """

    ca_file: Path
    other_ca_file: Path
    server: Certificate
    expired_server: Certificate
    misnamed_server: Certificate
    untrusted_server: Certificate
    client: Certificate
    untrusted_client: Certificate


@pytest.fixture(scope="session")
def certificates(devstack_folder: Path, session_servers: Devstack) -> Certificates:
    """Certificates that the servers of the session can read."""
    return write_certificates(devstack_folder / "certificates", owner=session_servers.postgresql.run_as())


def write_certificates(folder: Path, *names: str, owner: pwd.struct_passwd | None = None) -> Certificates:
    """Create both authorities and all certificates, as files in a new folder.

    Args:
        folder: the folder to create. For a server that runs as another user, all folders above it must permit traversal,
            as that of the `devstack_folder` fixture does and that of `tmp_path` does not.
        names: the host names and IP addresses of the server; those of this machine by default.
        owner: the user that owns the files, `Server.run_as()`. Only this user and root can read the private keys,
            which PostgreSQL demands of its own.
    """
    names = names or ("localhost", "127.0.0.1", "::1")
    authority, other = trustme.CA(), trustme.CA()
    yesterday = datetime.now(UTC) - timedelta(days=1)
    folder.mkdir(mode=0o711)

    def write(name: str, content: bytes, *, mode: int = 0o644) -> Path:
        path = folder / name
        path.write_bytes(content)
        path.chmod(mode)
        if owner is not None:
            os.chown(path, owner.pw_uid, owner.pw_gid)
        return path

    def write_certificate(name: str, certificate: trustme.LeafCert) -> Certificate:
        chain = b"".join(pem.bytes() for pem in certificate.cert_chain_pems)
        return Certificate(
            cert_file=write(f"{name}.pem", chain),
            key_file=write(f"{name}.key", certificate.private_key_pem.bytes(), mode=0o600),
        )

    return Certificates(
        ca_file=write("ca.pem", authority.cert_pem.bytes()),
        other_ca_file=write("other_ca.pem", other.cert_pem.bytes()),
        server=write_certificate("server", authority.issue_cert(*names)),
        expired_server=write_certificate("expired_server", authority.issue_cert(*names, not_after=yesterday)),
        misnamed_server=write_certificate("misnamed_server", authority.issue_cert("elsewhere.example")),
        untrusted_server=write_certificate("untrusted_server", other.issue_cert(*names)),
        client=write_certificate("client", authority.issue_cert(common_name=CLIENT_NAME)),
        untrusted_client=write_certificate("untrusted_client", other.issue_cert(common_name=CLIENT_NAME)),
    )
