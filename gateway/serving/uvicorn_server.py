"""uvicorn's HTTP server, without its lifespan and its signal handlers."""

import asyncio
import contextlib
from collections.abc import Callable, Generator, Sequence
from functools import partial
from socket import socket

import uvicorn
from starlette.types import ASGIApp

from gateway.serving.http_limits import HttpLimits
from gateway.serving.http_protocol import LimitedHttpProtocol

STREAM_DROP_TIMEOUT = 0.1  # for the task of a stream whose connection was dropped


class UvicornServer(uvicorn.Server):
    """A `uvicorn.Server` that leaves the lifespan and the signals to its caller.

    The gateway uses these undocumented parts of uvicorn only here. `tests/serving/test_uvicorn_server.py` fails if they change:

    - `startup()` is overridden: the server listens when it returns.
    - `capture_signals()` is overridden: it would install signal handlers.
    - `force_exit` ends the shutdown without waiting for requests.
    - `servers` has the listeners, which the shutdown closes and waits for.
    - `server_state.tasks` has the tasks of the requests in flight. The shutdown cancels them after the graceful timeout.
    - `http` may be any function that creates a protocol. The server calls it with keyword arguments for each connection.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: HttpLimits,
        keep_alive_timeout: float,
        graceful_timeout: float,
        root_path: str = "",
        trusted_proxies: Sequence[str] = (),
        on_listening: Callable[[], object],
    ) -> None:
        """Do not listen yet.

        Args:
            app: called for each request.
            limits: on the heads of requests and on connections.
            keep_alive_timeout: seconds from a response until an idle connection is closed.
            graceful_timeout: seconds for the requests in flight after `stop()`; then they are cancelled.
            root_path: the prefix of all paths that a proxy removes, such as `/weather`.
            trusted_proxies: networks of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` replace the address of the client
                and the scheme of a request.
            on_listening: called once the server listens.
        """
        config = uvicorn.Config(
            app,
            http=partial(LimitedHttpProtocol, limits=limits),  # type: ignore[arg-type]  # declared as a class
            ws="none",  # an upgraded connection would have no limits
            lifespan="off",
            root_path=root_path,
            log_config=None,
            access_log=False,
            proxy_headers=bool(trusted_proxies),
            forwarded_allow_ips=list(trusted_proxies),
            server_header=False,
            timeout_keep_alive=keep_alive_timeout,  # type: ignore[arg-type]  # declared as int, but a float works
            timeout_graceful_shutdown=graceful_timeout,  # type: ignore[arg-type]  # declared as int, but a float works
        )
        super().__init__(config)
        self._streams = limits.streams
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_listening()

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        # From Python 3.12 on, `wait_closed()` of a listener also waits for its connections, even if the stop is forced.
        for server in self.servers:
            server.close()
        self.servers.clear()
        for connection in self._streams.values():
            connection.shutdown()  # it closes after the stream
            self.server_state.connections.discard(connection)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    def stop(self) -> None:
        """Close the listener and finish the requests in flight. `serve()` returns then."""
        self.should_exit = True

    def force_stop(self) -> None:
        """Stop without waiting for the requests in flight, and drop the streams."""
        self.should_exit = self.force_exit = True
        self._drop_streams()

    async def end_streams(self, timeout: float) -> None:
        """Wait until the streams have ended, at most `timeout` seconds, and drop the rest.

        Streams report the shutdown itself, so `serve()` does not wait for them.
        """
        for seconds in (timeout, STREAM_DROP_TIMEOUT):
            if self._streams:
                await asyncio.wait(set(self._streams), timeout=seconds)
                self._drop_streams()

    def _drop_streams(self) -> None:
        for connection in self._streams.values():
            connection.drop()

    @property
    def requests(self) -> "set[asyncio.Task[None]]":
        """The tasks of the requests that have not ended."""
        return set(self.server_state.tasks)
