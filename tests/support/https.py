"""A real HTTPS server in this process, for tests of certificates."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from tests.support.certificates import Certificate
from tests.support.waiting import wait_until


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield  # the signal handlers are those of pytest


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
    config = uvicorn.Config(
        app,
        port=0,
        ssl_certfile=certificate.cert_file,
        ssl_keyfile=certificate.key_file,
        ssl_ca_certs=str(client_ca_file) if client_ca_file else None,
        ssl_cert_reqs=ssl.CERT_REQUIRED if client_ca_file else ssl.CERT_NONE,
        lifespan="off",
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve())
    try:
        await wait_until(lambda: server.started, "the HTTPS server listens")
        yield f"https://localhost:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
