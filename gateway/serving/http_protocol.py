"""uvicorn's HTTP protocol with the limits that it lacks: on the head of a request, on silent clients, and on the connections.

The head is the request line with the headers.
"""

import asyncio
import re
import time
from asyncio import TimerHandle, Transport
from collections.abc import Callable
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.api import problem_types
from gateway.api.cors import cors_fields
from gateway.api.problem_types import ProblemType
from gateway.api.problems import problem
from gateway.api.request_id import HEADER, request_id_of
from gateway.serving import refusal
from gateway.serving.http_limits import (
    DRAIN_TIMEOUT,
    MAX_DRAIN_BYTES,
    MAX_DRAINING,
    MAX_PAUSE,
    MIN_PAUSE,
    HttpLimits,
)
from gateway.serving.write_deadline import WriteDeadline

Headers = list[tuple[bytes, bytes]]

_AUTHORITY = re.compile(rb"[^:/?#]+://([^/?#]*)")  # of a target such as http://localhost:8000/v1/places


class LimitedHttpProtocol(HttpToolsProtocol):
    """One connection of a client.

    A head that is too large gets a 431, one that is too slow a 408. A connection that sends nothing until the deadline is
    closed. A body that stops gets a 408. A connection over the limit replaces the oldest one without a request, so that health
    checks still get through; if all have requests, it gets a 503.

    A request over the bound of those in progress gets a 503, and the connection stays open. The others have the time of their arrival
    (`time.monotonic()`) as `arrived_at` in their scope.

    Attributes:
        rejected: a request was rejected, and further data is dropped.

    These parts of uvicorn are undocumented. The tests in `tests/serving` fail if they change:

    - `cycle` is the last request whose head is complete, or None. `pipeline` has the requests that wait for the response to
      an earlier one, the last one first. `response_started`, `response_complete`, `disconnected`, `keep_alive`, `message_event`
      and `waiting_for_100_continue` are the state of a request.
    - `data_received()` is replaced: it logs each invalid request and each `Upgrade` header.
    - `on_response_complete()`, the callbacks of the parser, and the timer for idle connections.
    - `_start_asgi_task()` starts the task of a request, which is in `tasks` until it ends.
    """

    cycle: Any  # None before the first request, which the type in uvicorn does not include

    def __init__(self, *args: Any, limits: HttpLimits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self.rejected = False
        self._in_head = False  # between the first byte of a request and the end of its head
        self._in_body = False  # between the head of a request and its end
        self._previous_cycle: Any = None  # the request before `cycle`, if it was in flight when `cycle` arrived
        self._head_without_upgrade = b""
        self._may_refuse = False
        self._admitted_at: float | None = None  # of the request in flight, unless the bound does not apply to it
        self._previous_task: asyncio.Task[Any] | None = None  # of the last complete response; it may still clean up
        self._pause: TimerHandle | None = None
        self._pause_seconds = 0.0  # after the last request; 0 if it was accepted
        # The deadline for the client to send a head, a body, or the rest of a rejected request.
        self._timer: TimerHandle | None = None

        # A step is the end of a head, data of a body, or the end of a request. An unknown part of the packet with the last
        # step belongs to what follows it, such as the next head.
        self._packet_bytes = 0
        self._last_step_bytes = 0  # the size of the packet with the last step
        self._pending_bytes = 0  # received after that packet

    @property
    def is_idle(self) -> bool:
        """True if no request is in flight."""
        return self.cycle is None or self.cycle.response_complete

    def drop(self) -> None:
        """Close the connection immediately."""
        self._cancel_timer()
        self.transport.abort()

    # Callbacks of the transport.

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as in the base class
        super().connection_made(transport)
        self._write_deadline = WriteDeadline(transport, self.loop, self._limits.write_timeout)
        is_full = len(self.connections) - len(self._limits.draining) > self._limits.max_connections
        if is_full and not self._make_room():
            detail = "The gateway has too many connections. Try again in a second."
            self._reject(problem_types.TOO_MANY_CONNECTIONS, detail)
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()
        self._cancel_pause()
        self._write_deadline.cancel()
        self._unset_keepalive_if_required()  # uvicorn does that only if the client has closed the connection in order
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._packet_bytes = len(data)
        self._pending_bytes += self._packet_bytes
        if self.rejected:
            if self._pending_bytes > MAX_DRAIN_BYTES:
                self.transport.abort()
            return
        self._parse(data)
        if self.rejected:
            return
        if self._pending_bytes > self._limits.max_head_bytes:
            self._reject_large_head()
        elif not self.is_idle:
            if self._in_body:
                self._await_body()
            elif self._timer is not None:
                self._cancel_timer()
        elif self._in_head or self._in_body:
            self._await_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_deadline.start()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._write_deadline.cancel()

    def timeout_keep_alive_handler(self) -> None:
        if self._pause is None:  # otherwise the next request may have arrived, unread
            self._close()

    # Callbacks of the parser and of the request in flight.

    def on_message_begin(self) -> None:
        self._unset_keepalive_if_required()
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        # The packets may include a body or another request, so the head itself is measured before it is rejected.
        is_large = self._pending_bytes + self._last_step_bytes > self._limits.max_head_bytes
        if is_large and self._head_size() > self._limits.max_head_bytes:
            self._reject_large_head()
            raise ValueError("the head is too large")  # this ends the parser
        if self.parser.should_upgrade():
            self._head_without_upgrade = self._remove_upgrade()
            return
        if self.url[:1] != b"/":
            self._use_host_of_target()
        previous_cycle = None if self.is_idle else self.cycle
        self._may_refuse = True  # not later: a pipelined request starts in the place of the one before it
        try:
            super().on_headers_complete()  # raises an error if the target is invalid
        finally:
            self._may_refuse = False
        self._previous_cycle = previous_cycle
        self._in_head = False
        self._in_body = True
        self._on_step()
        self.headers = []  # the parser appends the trailers

    def on_body(self, body: bytes) -> None:
        self._on_step()
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._head_without_upgrade:
            return
        self._in_body = False
        self._on_step()
        super().on_message_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        is_exempt = cycle.scope["path"] in self._limits.exempt_paths
        if self._may_refuse and not is_exempt and not self._is_accepted():
            self._refuse(cycle)
            return
        self._pause_seconds = 0.0
        cycle.scope["arrived_at"] = now = time.monotonic()
        self._admitted_at = None if is_exempt else now
        super()._start_asgi_task(cycle, self._stream if cycle.scope["path"] in self._limits.stream_paths else app)

    async def _stream(self, *arguments: Any) -> None:
        """Call the app without counting its response among the requests in progress, for which the shutdown waits."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self.tasks.discard(task)
        self._limits.streams[task] = self
        if not self.cycle.keep_alive:  # perhaps because of a shutdown, which must not wait for this connection
            self.connections.discard(self)
        try:
            await self.app(*arguments)
        finally:
            del self._limits.streams[task]

    def on_response_complete(self) -> None:
        if self._admitted_at is not None:
            self._limits.admission.record(time.monotonic() - self._admitted_at)
        self._previous_task = asyncio.current_task()
        super().on_response_complete()
        if self.transport.is_closing():
            self._write_deadline.start()
        elif (self._in_head or self._in_body) and self.is_idle:
            self._unset_keepalive_if_required()
            self._await_head()

    def _on_step(self) -> None:
        self._pending_bytes = 0
        self._last_step_bytes = self._packet_bytes

    # The head of a request.

    def _parse(self, data: bytes | memoryview) -> None:
        try:
            while True:
                try:
                    self.parser.feed_data(data)
                except httptools.HttpParserUpgrade as upgrade:
                    data = memoryview(data)[upgrade.args[0] :]
                    head, self._head_without_upgrade = self._head_without_upgrade, b""
                    self.parser.feed_data(head)
                else:
                    return
        except httptools.HttpParserError:
            if not self.rejected:
                detail = "This is not a valid HTTP/1.1 request. Correct it and send it again."
                self._reject(problem_types.MALFORMED_REQUEST, detail)

    def _remove_upgrade(self) -> bytes:
        """Return the head without `Upgrade`.

        The parser skips the body of a request with this header, and then parses it as the next request. A server may ignore
        the header, so the parser gets the head once more without it.

        Raises:
            ValueError: the method is CONNECT.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            raise ValueError("the gateway is not a proxy")
        lines = [b"%s %s HTTP/%s" % (method, self.url, self.parser.get_http_version().encode())]
        lines += [b"%s: %s" % each for each in self.headers if each[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def _use_host_of_target(self) -> None:
        """Replace the header Host by the host of the target, if it has one (RFC 9112, 3.2.2)."""
        if found := _AUTHORITY.match(self.url):
            self.headers[:] = [(b"host", found[1]), *(each for each in self.headers if each[0] != b"host")]

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers)

    def _reject_large_head(self) -> None:
        part = "trailers" if self._in_body else "request line and the headers"
        detail = f"The {part} are too large. Send at most {self._limits.max_head_bytes} bytes."
        self._reject(problem_types.HEADERS_TOO_LARGE, detail)

    # Deadlines for the client to send.

    def _await_head(self) -> None:
        """Start the deadline for the head, unless it runs.

        Each connection starts with one. A later request has one only if its head arrives in pieces, or if the body of the
        request before it continues after the response.
        """
        if self not in self._limits.waiting:
            self._start_timer(self._limits.head_timeout, self._on_head_deadline)
            self._limits.waiting[self] = None

    def _on_head_deadline(self) -> None:
        self._cancel_timer()
        if self._in_head and not self.transport.is_closing():
            detail = f"The headers were not complete after {self._limits.head_timeout:g} s. Send them faster."
            self._reject(problem_types.REQUEST_TIMEOUT, detail)
        else:
            self._close()

    def _await_body(self) -> None:
        """Start the deadline for the next data of the body. It starts again with each data."""
        if self._timer is None or self in self._limits.waiting or self._pending_bytes == 0:
            self._start_timer(self._limits.body_timeout, self._on_body_deadline)

    def _on_body_deadline(self) -> None:
        if self.flow.read_paused or self.cycle.waiting_for_100_continue:  # the client waits for the app
            self._start_timer(self._limits.body_timeout, self._on_body_deadline)
        elif not self.transport.is_closing():
            detail = f"No data of the body arrived for {self._limits.body_timeout:g} s. Send it faster."
            self._reject(problem_types.REQUEST_TIMEOUT, detail)

    def _start_timer(self, seconds: float, callback: Callable[[], object]) -> None:
        self._cancel_timer()
        self._timer = self.loop.call_later(seconds, callback)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._limits.waiting.pop(self, None)
            self._limits.draining.pop(self, None)

    def _close(self) -> None:
        """Close the connection, as soon as the client has read the response."""
        self._cancel_pause()
        self.transport.close()
        self._write_deadline.start()

    # Responses without the app.

    def _is_accepted(self) -> bool:
        # A request takes the place of the one before it on its connection.
        in_progress = len(self.tasks) - (self._previous_task in self.tasks)
        return self._limits.admission.accepts(in_progress, was_refused=self._pause_seconds > 0)

    def _refuse(self, cycle: Any) -> None:
        """Send a 503 without a task for the request, and read nothing more for a while.

        Raises:
            ValueError: the connection cannot stay. This ends the parser.
        """
        # A client that waits for `100 Continue` may send the body after the response, or another request instead.
        closes = not cycle.keep_alive or cycle.waiting_for_100_continue or self.flow.write_paused
        fields = [*self._default_fields(cycle.scope["headers"]), *([(b"connection", b"close")] if closes else [])]
        self.transport.write(refusal.render(cycle.scope, request_id_of(cycle.scope["headers"]), fields))
        cycle.response_started = cycle.response_complete = True
        self._limits.on_rejected(problem_types.OVERLOADED.status, self.client, refusal.DETAIL)
        if closes:
            self.rejected = True
            self._drain()
            raise ValueError("the request is refused")
        self._cancel_timer()
        self._pause_reading()
        super().on_response_complete()

    def _pause_reading(self) -> None:
        self.transport.pause_reading()
        self._cancel_pause()
        self._pause_seconds = min(max(2 * self._pause_seconds, MIN_PAUSE), MAX_PAUSE)
        self._pause = self.loop.call_later(self._pause_seconds, self._resume_reading)

    def _resume_reading(self) -> None:
        self._pause = None
        self.transport.resume_reading()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _cancel_pause(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    def _reject(self, problem_type: ProblemType, detail: str) -> None:
        """Send a problem and close the connection, as soon as the client has it. Drop further data.

        The requests before the rejected one get their responses. Then the connection is closed without the problem.
        """
        self._cancel_timer()
        self.rejected = True
        is_queued = self._in_body and bool(self.pipeline)
        if is_queued:
            del self.pipeline[0]
            self.cycle = self._previous_cycle
        if is_queued or not (self._in_body or self.is_idle):
            self.cycle.keep_alive = False  # uvicorn closes the connection after the responses to the earlier requests
            return
        if not (self._in_body and self.cycle.response_started):
            self.transport.write(self._render(problem_type, detail))
            self._limits.on_rejected(problem_type.status, self.client, detail)
        if self._in_body:
            self.cycle.disconnected = True  # the app reads no more, and the rest of its response is dropped
            self.cycle.message_event.set()
        self._drain()

    def _render(self, problem_type: ProblemType, detail: str) -> bytes:
        headers: Headers = list(self.scope["headers"]) if self._in_head or self._in_body else []
        request_id = request_id_of(headers)
        scope = {"root_path": self.root_path, "request_id": request_id.decode()}
        response = problem(problem_type, detail, scope, headers={"Connection": "close"})
        fields = [*self._default_fields(headers), *response.raw_headers, (HEADER, request_id)]
        lines = b"".join(b"%s: %s\r\n" % each for each in fields)
        return b"%s%s\r\n%s" % (STATUS_LINE[problem_type.status], lines, bytes(response.body))

    def _default_fields(self, headers: Headers) -> Headers:
        """Return the header fields of each response without the app, by the headers of its request."""
        origins = self._limits.cors_origins
        return [*self.server_state.default_headers, *(cors_fields(headers, origins) if origins else [])]

    def _drain(self) -> None:
        """End the responses, and drop the data of the client for a while."""
        self.transport.write_eof()
        draining = self._limits.draining
        if len(draining) >= MAX_DRAINING:
            next(iter(draining)).drop()
        self._start_timer(DRAIN_TIMEOUT, self.drop)
        draining[self] = None

    # The number of connections.

    def _make_room(self) -> bool:
        """Close the oldest connection without a complete head, or else one without a request. Return whether there is one."""
        self._limits.warn(self.loop.time())
        others = (each for each in self.connections if each is not self and isinstance(each, LimitedHttpProtocol))
        idle = (each for each in others if each.is_idle and not each.rejected and not each.transport.is_closing())
        found = next(iter(self._limits.waiting), None) or next(idle, None)
        if found is None:
            return False
        found.drop()
        return True
