"""A real HTTPS server in this process, for tests of certificates."""

import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.types import ASGIApp

from tests.support.certificates import Certificate
from tests.support.http_server import http_server


@contextlib.asynccontextmanager
async def https_server(
    app: ASGIApp, certificate: Certificate, *, client_ca_file: Path | None = None
) -> AsyncIterator[str]:
    """Serve an app on a free port with a certificate; yield the URL.

    Args:
        app: called for each request.
        certificate: that of the server.
        client_ca_file: demand a certificate of this authority from clients.
    """
    async with http_server(
        app,
        ssl_certfile=certificate.cert_file,
        ssl_keyfile=certificate.key_file,
        ssl_ca_certs=str(client_ca_file) if client_ca_file else None,
        ssl_cert_reqs=ssl.CERT_REQUIRED if client_ca_file else ssl.CERT_NONE,
    ) as port:
        yield f"https://localhost:{port}"
