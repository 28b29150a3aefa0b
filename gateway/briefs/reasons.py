"""Why a backend did not answer, in the words of a brief."""

import socket
from collections.abc import Iterator

from gateway.briefs.circuit_breaker import CircuitOpenError
from gateway.briefs.models import Reason
from gateway.resources import http


def reason_for(error: BaseException) -> Reason:
    """The reason behind an error of any of the client libraries, each of which wraps what the socket said its own way."""
    if isinstance(error, CircuitOpenError):
        return Reason.OPEN
    chain = list(_chain(error))
    if any(
        isinstance(link, ConnectionRefusedError | socket.gaierror) or http.is_connection_refused(link) for link in chain
    ):
        return Reason.REFUSED
    if isinstance(error, TimeoutError) or http.is_timeout(error):
        return Reason.TIMEOUT
    return Reason.ERROR


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
