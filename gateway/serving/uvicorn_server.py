"""uvicorn's HTTP server, without its lifespan and its signal handlers."""

import asyncio
import contextlib
from collections.abc import Callable, Generator
from socket import socket

import uvicorn
from starlette.types import ASGIApp


class UvicornServer(uvicorn.Server):
    """A `uvicorn.Server` that leaves the lifespan and the signals to its caller.

    The gateway uses these undocumented parts of uvicorn only here. `tests/serving/test_uvicorn_server.py` fails if they change:

    - `startup()` is overridden: the server listens when it returns.
    - `capture_signals()` is overridden: it would install signal handlers.
    - `force_exit` ends the shutdown without waiting for requests.
    - `server_state.tasks` has the tasks of the requests in flight. The shutdown cancels them after the graceful timeout.
    """

    def __init__(self, app: ASGIApp, *, graceful_timeout: float, on_listening: Callable[[], object]) -> None:
        """Do not listen yet.

        Args:
            app: called for each request.
            graceful_timeout: seconds for the requests in flight after `stop()`; then they are cancelled.
            on_listening: called once the server listens.
        """
        config = uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # the gateway does not use the address of a client
            server_header=False,
            timeout_graceful_shutdown=graceful_timeout,  # type: ignore[arg-type]  # declared as int, but a float works
        )
        super().__init__(config)
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_listening()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    def stop(self) -> None:
        """Close the listener and finish the requests in flight. `serve()` returns then."""
        self.should_exit = True

    def force_stop(self) -> None:
        """Stop without waiting for the requests in flight."""
        self.should_exit = self.force_exit = True

    @property
    def requests(self) -> "set[asyncio.Task[None]]":
        """The tasks of the requests that have not ended."""
        return set(self.server_state.tasks)
