"""A load that is more than the server can take, and the time that the server needs after it."""

import time
from collections.abc import Iterator
from http import HTTPStatus
from itertools import islice

from benchmarks.closed_loop import ClosedLoopConnection, LoadState
from benchmarks.workloads import CheckedRequest, IncompleteBriefError, WrongResponseError

RECOVERED_LATENCY = 0.05  # seconds; a brief for one client takes about one millisecond
RECOVERED_RESPONSES = 20  # in a row
RECOVERY_TIMEOUT = 30.0


class OverloadState(LoadState):
    """The state of an overload. The server may refuse requests, leave sections out of briefs, and close connections.

    Attributes:
        response_timeout: seconds after which a response is late.
        in_time: the number of complete responses that were not late, while `measuring` was true.
        refused: the number of responses with status 503, and of connections that were closed instead of a response.
        late: the number of all other responses: late or incomplete.
    """

    def __init__(self, response_timeout: float) -> None:
        super().__init__(reconnects=True)
        self.response_timeout = response_timeout
        self.in_time = 0
        self.refused = 0
        self.late = 0

    def receive(self, request: CheckedRequest, status: int, body: bytes, latency: float) -> None:
        """Check a response and count it. Only the latencies of accepted requests are recorded."""
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            self.refused += self.measuring
            return
        in_time = latency <= self.response_timeout
        try:
            super().receive(request, status, body, latency)
        except IncompleteBriefError:
            in_time = False
            if self.measuring:
                self.latencies.append(latency)
        if self.measuring:
            self.in_time += in_time
            self.late += not in_time

    def lose(self, reason: str) -> None:
        del reason
        self.refused += self.measuring

    def rates(self, elapsed: float) -> dict[str, float]:
        return {
            "requests_per_second": self.in_time / elapsed,
            "refused_per_second": self.refused / elapsed,
            "late_per_second": self.late / elapsed,
        }


async def seconds_to_recover(port: int, requests: Iterator[CheckedRequest]) -> float:
    """Return the seconds until the requests of one new client after another are in time again, several in a row.

    Raises:
        WrongResponseError: a response is wrong, or the server does not recover.
        OSError: the server refuses a connection.
    """
    began_at = recovered_at = time.perf_counter()
    state = OverloadState(RECOVERED_LATENCY)
    state.measuring = True
    state.reconnects = False
    in_a_row = 0
    while in_a_row < RECOVERED_RESPONSES:
        in_time = state.in_time
        state.requests = islice(requests, 1)
        client = ClosedLoopConnection(state, port)
        try:
            await client.start()
            await state.wait_until_idle()
        finally:
            client.close()
        if state.in_time > in_time:
            in_a_row += 1
            continue
        in_a_row, recovered_at = 0, time.perf_counter()
        if recovered_at - began_at > RECOVERY_TIMEOUT:
            raise WrongResponseError(f"the server did not recover in {RECOVERY_TIMEOUT:g} s")
    return recovered_at - began_at
