"""The files for TLS: each that cannot be used is named, together with the reason."""

import os
from pathlib import Path

import pytest

from gateway.network.tls import TLSFileError, TLSFiles, client_context
from tests.support.certificates import write_certificates


@pytest.mark.parametrize("field", ["ca_file", "cert_file", "key_file"])
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "cannot be read: no such file or directory"),
        ("folder", "is not a regular file"),
        ("fifo", "is not a regular file"),
        ("text", "PEM format|private key"),
    ],
)
def test_unusable_file(tmp_path: Path, field: str, kind: str, reason: str) -> None:
    """The error has the field, the path and the reason. Reading a FIFO does not wait for its writer."""
    certificates = write_certificates(tmp_path / "certificates")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "text").write_text("text")
    files = {
        "ca_file": certificates.ca_file,
        "cert_file": certificates.client.cert_file,
        "key_file": certificates.client.key_file,
        field: tmp_path / kind,
    }

    with pytest.raises(TLSFileError, match=reason) as caught:
        client_context(TLSFiles(**files))

    assert caught.value.field == field
