"""uvicorn's HTTP protocol with the limits that it lacks: on the head of a request, and on the number of connections.

The head is the request line with the headers.
"""

import math
import resource
from asyncio import TimerHandle, Transport
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.api.problems import problem
from gateway.api.request_id import HEADER, request_id_of

RESERVED_DESCRIPTORS = 200  # for the connections to the backends (150 at most), DNS lookups and files

# A client that is still sending when the connection is closed gets a reset instead of the response. So the rest of a
# rejected request is read and dropped, up to these limits.
MAX_DRAIN_BYTES = 16 * 1024 * 1024
DRAIN_TIMEOUT = 2.0

WARNING_INTERVAL = 60.0  # between two warnings that the number of connections is at its limit

log = structlog.get_logger("gateway.server")


@dataclass(eq=False)
class HttpLimits:
    """The limits of a server, and the state that its connections share.

    Attributes:
        max_head_bytes: of a request.
        head_timeout: seconds from the accept of a connection, or from the first byte of a later request, to the end of the
            head.
        max_connections: open connections.
        waiting: the connections without a complete head, the oldest first, each with the timer of its deadline.
        warned_at: the time of the last warning, in seconds of the loop.
    """

    max_head_bytes: int
    head_timeout: float
    max_connections: int
    waiting: "dict[LimitedHttpProtocol, TimerHandle]" = field(default_factory=dict)
    warned_at: float = -math.inf


def max_connections(limit: int) -> int:
    """Reduce a limit of connections so that the backends always have file descriptors left."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return limit
    return min(limit, max(descriptors - RESERVED_DESCRIPTORS, descriptors // 2))


class LimitedHttpProtocol(HttpToolsProtocol):
    """One connection of a client.

    A head that is too large gets a 431, one that is too slow a 408. A connection that sends nothing until the deadline is
    closed. A connection over the limit replaces the oldest one without a request, so that health checks still get through; if
    all have requests, it gets a 503.

    These parts of uvicorn are undocumented. `tests/serving/test_http_protocol.py` fails if they change:

    - `cycle` is the last request whose head is complete, or None. `response_complete` and `more_body` are its state.
    - The callbacks of the parser, and `send_400_response()`, which handles the errors of the parser.
    """

    cycle: Any  # None before the first request, which the type in uvicorn does not include

    def __init__(self, *args: Any, limits: HttpLimits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._received_bytes = 0  # since the last request was complete
        self._is_large = False  # the data of the current call may contain a head that is too large
        self._in_body = False  # between the head of a request and its end
        self._rejected = False  # the rest of the data is dropped

    @property
    def is_idle(self) -> bool:
        """True if no request is in flight."""
        return self.cycle is None or self.cycle.response_complete

    def drop(self) -> None:
        """Close the connection immediately."""
        self._cancel_deadline()
        self.transport.abort()

    # Callbacks of the transport.

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as in the base class
        is_full = len(self.connections) >= self._limits.max_connections
        super().connection_made(transport)
        if is_full:
            self._warn()
            if not self._close_oldest_idle():
                detail = "The gateway has too many connections. Try again in a second."
                self._reject(HTTPStatus.SERVICE_UNAVAILABLE, detail, {"Retry-After": "1"})
                return
        self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received_bytes += len(data)
        if self._rejected:
            if self._received_bytes > MAX_DRAIN_BYTES:
                self.transport.abort()
            return
        self._is_large = self._received_bytes > self._limits.max_head_bytes
        super().data_received(data)
        if self._rejected:
            return
        if self._received_bytes > self._limits.max_head_bytes and not self._in_body:
            self._reject_large_head()
        elif self.is_idle:
            self._start_deadline()
        else:
            self._cancel_deadline()

    # Callbacks of the parser.

    def on_headers_complete(self) -> None:
        # The data may include a body or another request, so the head itself is measured before it is rejected.
        if self._is_large and self._head_size() > self._limits.max_head_bytes:
            self._reject_large_head()
            raise ValueError("the head is too large")  # this ends the parser
        self._in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_body = False
        self._received_bytes = 0
        self.headers = []
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Handle an error of the parser."""
        del msg
        if not self._rejected:
            self._reject(HTTPStatus.BAD_REQUEST, "This is not a valid HTTP/1.1 request. Correct it and send it again.")

    # The head of a request.

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers)

    def _start_deadline(self) -> None:
        """Start the deadline for the head, unless it runs.

        Each connection starts with one. A later request has one only if its head arrives in pieces, or if the body of the
        request before it continues after the response.
        """
        if self not in self._limits.waiting:
            self._limits.waiting[self] = self.loop.call_later(self._limits.head_timeout, self._on_deadline)

    def _cancel_deadline(self) -> None:
        if timer := self._limits.waiting.pop(self, None):
            timer.cancel()

    def _on_deadline(self) -> None:
        self._cancel_deadline()
        if self.transport.is_closing():
            return
        if self._received_bytes and not self._in_body:
            seconds = f"{self._limits.head_timeout:g} s"
            self._reject(
                HTTPStatus.REQUEST_TIMEOUT, f"The headers were not complete after {seconds}. Send them faster."
            )
        else:
            self.transport.close()

    def _reject_large_head(self) -> None:
        detail = f"The request line and the headers are too large. Send at most {self._limits.max_head_bytes} bytes."
        self._reject(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, detail)

    # Responses without the app.

    def _reject(self, status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None) -> None:
        """Send a problem and close the connection, as soon as the client has it. Drop further data."""
        self._cancel_deadline()
        self._rejected = True
        if self.is_idle:
            self.transport.write(self._render(status, detail, headers))
            self.transport.write_eof()
            self._limits.waiting[self] = self.loop.call_later(DRAIN_TIMEOUT, self.transport.abort)
        elif self.cycle.more_body:
            self.transport.close()  # the rest of this request's body never arrives
        else:
            self.cycle.keep_alive = False  # uvicorn closes the connection after the responses to the earlier requests

    def _render(self, status: HTTPStatus, detail: str, headers: Mapping[str, str] | None) -> bytes:
        request_id = request_id_of(self.headers or [])
        response = problem(status, detail, headers={**(headers or {}), "Connection": "close"})
        fields = [*self.server_state.default_headers, *response.raw_headers, (HEADER, request_id)]
        lines = b"".join(b"%s: %s\r\n" % each for each in fields)
        return b"%s%s\r\n%s" % (STATUS_LINE[status], lines, bytes(response.body))

    # The number of connections.

    def _close_oldest_idle(self) -> bool:
        """Close the oldest connection without a complete head, or else one without a request. Return whether there is one."""
        others = (each for each in self.connections if each is not self and isinstance(each, LimitedHttpProtocol))
        idle = (each for each in others if each.is_idle and not each.transport.is_closing())
        found = next(iter(self._limits.waiting), None) or next(idle, None)
        if found is None:
            return False
        found.drop()
        return True

    def _warn(self) -> None:
        now = self.loop.time()
        if now - self._limits.warned_at >= WARNING_INTERVAL:
            self._limits.warned_at = now
            log.warning(
                "too many connections, closing idle ones",
                max_connections=self._limits.max_connections,
                advice="raise GATEWAY_MAX_CONNECTIONS and the limit of open files",
            )
