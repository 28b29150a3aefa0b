"""Counts the responses that should concern an operator, and logs them: 5xx, 401 and 403.

They have few log lines: the first response of a status has one, and after that each interval with others has one with their number.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated

import orjson
import structlog
from fastapi import Depends, Request
from opentelemetry import metrics
from starlette.types import Scope

from gateway.api.log_fields import LogFields, client_address, fields_of_request

INTERVAL = 5.0  # between two lines about one status
UNMATCHED = "unmatched"  # the route of a request that the app has not routed

# Numbers, because each response is compared with them.
_MIN_SERVER_ERROR = HTTPStatus.INTERNAL_SERVER_ERROR.value
_UNAUTHORIZED = frozenset({HTTPStatus.UNAUTHORIZED.value, HTTPStatus.FORBIDDEN.value})

log = structlog.get_logger("gateway.api")


@dataclass(slots=True)
class _Unlogged:
    """The responses of a status since its last line: their number, and the fields of the first one."""

    timer: asyncio.TimerHandle
    count: int = 0
    first: LogFields = field(default_factory=dict)


def is_failed(status: int) -> bool:
    return status >= _MIN_SERVER_ERROR or status in _UNAUTHORIZED


class FailedResponses:
    """Counts and logs failed responses.

    Attributes:
        counts: the number of responses since the start, by status and route.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[int, str]] = Counter()
        self._unlogged: dict[int, _Unlogged] = {}  # by status
        self._counter = metrics.get_meter("gateway").create_counter(
            "gateway.failed_responses", unit="{response}", description="Responses with the status 5xx, 401 or 403"
        )

    def record(self, status: int, scope: Scope, body: bytes) -> None:
        """Record a response of the app. Its body has the reason if it is a problem."""
        route = getattr(scope.get("route"), "path", UNMATCHED)
        self._record(status, route, lambda: {**fields_of_request(scope), "detail": _detail(body)})

    def record_rejection(self, status: int, client: tuple[str, int] | None, detail: str) -> None:
        """Record a response that the server has sent without the app, if it has failed."""
        if is_failed(status):
            self._record(status, UNMATCHED, lambda: {"client": client_address(client), "detail": detail})

    def close(self) -> None:
        """Log the responses that are not logged yet, and stop all timers."""
        for status, unlogged in self._unlogged.items():
            unlogged.timer.cancel()
            _log(status, unlogged)
        self._unlogged.clear()

    def _record(self, status: int, route: str, describe: Callable[[], LogFields]) -> None:
        self.counts[status, route] += 1
        self._counter.add(1, {"http.response.status_code": status, "http.route": route})
        unlogged = self._unlogged.get(status)
        is_first = unlogged is None
        if unlogged is None:
            unlogged = self._unlogged[status] = _Unlogged(self._start_timer(status))
        unlogged.count += 1
        unlogged.first = unlogged.first or {"route": route, **describe()}
        if is_first:
            _log(status, unlogged)

    def _start_timer(self, status: int) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(INTERVAL, self._on_interval, status)

    def _on_interval(self, status: int) -> None:
        unlogged = self._unlogged.pop(status)
        if unlogged.count:
            _log(status, unlogged)
            unlogged.timer = self._start_timer(status)
            self._unlogged[status] = unlogged


async def get_failed_responses(request: Request) -> FailedResponses:
    failed_responses: FailedResponses = request.app.state.failed_responses
    return failed_responses


FailedResponsesDependency = Annotated[FailedResponses, Depends(get_failed_responses)]


def _log(status: int, unlogged: _Unlogged) -> None:
    """Log the responses of a status, unless there are none."""
    if unlogged.count:
        log.warning("responses failed", status=status, count=unlogged.count, **unlogged.first)
    unlogged.count, unlogged.first = 0, {}


def _detail(body: bytes) -> str | None:
    """Return the detail of a problem, or None if the body is no problem."""
    try:
        problem = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return str(problem["detail"]) if isinstance(problem, dict) and "detail" in problem else None
