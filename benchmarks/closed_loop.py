"""The connections of the load generator: each sends its next request when it has the response to the previous one."""

import asyncio
import re
import time
from array import array
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from benchmarks.workloads import CheckedRequest, WrongResponseError

CLIENT_TIMEOUT = 60.0  # for the responses to the first requests, and for those in flight at the end

_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_END_OF_HEAD = b"\r\n\r\n"
_MAX_SHOWN_BYTES = 3000  # of a request and of a wrong response, in the error message


@dataclass(slots=True)
class LoadState:
    """The state that all connections share.

    Attributes:
        requests: the requests that are not sent yet.
        latencies: in seconds, of the responses that arrived while `measuring` was true.
        in_flight: the number of requests without a response.
        idle: set when nothing is in flight.
        failure: gets a WrongResponseError at the first wrong response.
        reconnects: whether a connection is opened again when the server has closed it.
    """

    requests: Iterator[CheckedRequest] = field(default_factory=lambda: iter(()))
    latencies: "array[float]" = field(default_factory=lambda: array("d"))
    measuring: bool = False
    in_flight: int = 0
    reconnects: bool = False
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    failure: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def receive(self, request: CheckedRequest, status: int, body: bytes, latency: float) -> None:
        """Check a response and record its latency. An exception of the check ends the load."""
        request.check(status, body)
        if self.measuring:
            self.latencies.append(latency)

    def lose(self, reason: str) -> None:
        """Record that a connection was closed before the end of a response."""
        self.fail(reason)

    def rates(self, elapsed: float) -> dict[str, float]:
        """Return the fields of a `LoadResult` that are numbers of requests per second."""
        return {"requests_per_second": len(self.latencies) / elapsed}

    def fail(self, reason: str) -> None:
        if not self.failure.done():
            self.failure.set_exception(WrongResponseError(reason))

    def stop(self) -> None:
        """Send no further requests."""
        self.requests = iter(())
        self.reconnects = False

    async def sleep(self, seconds: float) -> None:
        """Sleep while the load goes on.

        Raises:
            WrongResponseError: a response is wrong. The sleep ends immediately.
        """
        await self._unless_failed(asyncio.sleep(seconds))

    async def wait_until_idle(self) -> None:
        """Wait for the responses to all requests that are in flight.

        Raises:
            WrongResponseError: a response is wrong, or missing after `CLIENT_TIMEOUT`.
        """
        if self.in_flight:
            self.idle.clear()
            await self._unless_failed(asyncio.wait_for(self.idle.wait(), CLIENT_TIMEOUT))

    async def _unless_failed(self, coro: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(coro)
        tasks: set[asyncio.Future[Any]] = {task, self.failure}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if self.failure.done():
                self.failure.result()
            await task
        except TimeoutError:
            raise WrongResponseError(f"{self.in_flight} requests without a response in {CLIENT_TIMEOUT:g} s") from None
        finally:
            task.cancel()


class ClosedLoopConnection(asyncio.Protocol):
    """An HTTP/1.1 connection with one request in flight."""

    def __init__(self, state: LoadState, port: int) -> None:
        self._state = state
        self._port = port
        self._received = bytearray()
        self._request: CheckedRequest | None = None
        self._sent_at = 0.0
        self._transport: asyncio.Transport | None = None
        self._closed = False
        self._reconnection: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect to the server on loopback, and send the first request.

        Raises:
            OSError: the server refuses the connection.
        """
        await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self._port)
        self._send_next()

    def close(self) -> None:
        self._closed = True
        self._request = None
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._received = bytearray()

    def _send_next(self) -> None:
        """Send the next request, if there is one."""
        if self._transport is not None and (request := next(self._state.requests, None)) is not None:
            self._request = request
            self._state.in_flight += 1
            self._sent_at = time.perf_counter()
            self._transport.write(request.wire)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end_of_head, body = self._received.partition(_END_OF_HEAD)
        length = _CONTENT_LENGTH.search(head)
        if not end_of_head or (length is not None and len(body) < int(length[1])):
            return  # the rest has not arrived yet
        latency = time.perf_counter() - self._sent_at
        state, request = self._state, self._request
        if request is None or length is None or len(body) != int(length[1]):
            state.fail(f"more than one response, or a response without Content-Length\n{self._exchange()}")
            return
        try:
            state.receive(request, int(head[9:12]), bytes(body), latency)
        except (WrongResponseError, ValueError, LookupError, TypeError) as error:
            state.fail(f"{type(error).__name__}: {error}\n{self._exchange()}")
            return
        self._received = bytearray()
        self._end_request()
        if not _CLOSES.search(head):
            self._send_next()
        if state.in_flight == 0:
            state.idle.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._closed:
            return
        if self._request is not None:
            self._state.lose(f"the connection was lost before the end of the response: {exc}\n{self._exchange()}")
            self._end_request()
        if self._state.reconnects:
            self._reconnection = asyncio.get_running_loop().create_task(self._reconnect())
        if self._state.in_flight == 0:
            self._state.idle.set()

    async def _reconnect(self) -> None:
        try:
            await self.start()
        except OSError as error:
            self._state.fail(f"the server refuses the connection: {error}")

    def _end_request(self) -> None:
        self._request = None
        self._state.in_flight -= 1

    def _exchange(self) -> str:
        request = b"" if self._request is None else self._request.wire
        return "\n".join(text[:_MAX_SHOWN_BYTES].decode(errors="replace") for text in (request, bytes(self._received)))
