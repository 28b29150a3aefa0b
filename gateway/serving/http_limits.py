"""The limits of the HTTP server, and the state that its connections share."""

import asyncio
import math
import resource
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog

from gateway.serving.admission import Admission

if TYPE_CHECKING:
    from gateway.serving.http_protocol import LimitedHttpProtocol

RESERVED_DESCRIPTORS = 200  # for the connections to the backends (150 at most), rejected clients, DNS lookups and files

BODY_TIMEOUT = 30.0  # without data of the body
WRITE_TIMEOUT = 30.0  # without progress of a response that the client does not read

# A client that is still sending when the connection is closed gets a reset instead of the response. So the rest of a
# rejected request is read and dropped, up to these limits.
MAX_DRAIN_BYTES = 16 * 1024 * 1024
DRAIN_TIMEOUT = 2.0
MAX_DRAINING = 20  # connections

# Seconds until the next data of a connection is read after a refusal; they double with each further one in succession. Clients that
# ignore `Retry-After` repeat a refused request at once. Without a pause, the refusals would take the CPU time of the accepted requests.
# The first pause is short, because a proxy may use the connection for another client.
MIN_PAUSE = 0.1
MAX_PAUSE = 1.6

WARNING_INTERVAL = 60.0  # between two warnings that the number of connections is at its limit

log = structlog.get_logger("gateway.server")

# Called with the status of a response that is sent without the app, the address of the client, and the detail of the problem.
OnRejected = Callable[[int, tuple[str, int] | None, str], object]

OrderedSet = dict["LimitedHttpProtocol", None]  # with the oldest connection first


@dataclass(eq=False)
class HttpLimits:
    """The limits of a server, and the state that its connections share.

    Attributes:
        max_head_bytes: of a request; the trailers have the same limit.
        head_timeout: seconds from the accept of a connection, or from the first byte of a later request, to the end of the
            head.
        max_connections: open connections, without the ones that drain.
        body_timeout: seconds without data of the body until the request is rejected.
        write_timeout: seconds until a connection is closed whose client reads nothing of its response.
        on_rejected: called after each response that is sent without the app.
        admission: the bound of the requests in progress.
        exempt_paths: the bound does not apply to the requests of these paths.
        stream_paths: the shutdown does not wait for the responses of these paths (see `UvicornServer.end_streams`).
        cors_origins: the pages of these origins may read the responses that are sent without the app.
        waiting: the connections without a complete head.
        draining: the rejected connections whose further data is dropped.
        streams: the responses of `stream_paths` in progress: their tasks, and the connection of each.
        warned_at: the time of the last warning, in seconds of the loop.
    """

    max_head_bytes: int
    head_timeout: float
    max_connections: int
    body_timeout: float = BODY_TIMEOUT
    write_timeout: float = WRITE_TIMEOUT
    on_rejected: OnRejected = lambda *_: None
    admission: Admission = field(default_factory=Admission)
    exempt_paths: frozenset[str] = frozenset()
    stream_paths: frozenset[str] = frozenset()
    cors_origins: tuple[str, ...] = ()
    waiting: OrderedSet = field(default_factory=dict)
    draining: OrderedSet = field(default_factory=dict)
    streams: "dict[asyncio.Task[Any], LimitedHttpProtocol]" = field(default_factory=dict)
    warned_at: float = -math.inf

    def warn(self, now: float) -> None:
        """Log that there are too many connections, unless it was logged a short time ago."""
        if now - self.warned_at >= WARNING_INTERVAL:
            self.warned_at = now
            log.warning(
                "too many connections, closing idle ones",
                max_connections=self.max_connections,
                advice="raise GATEWAY_MAX_CONNECTIONS and the limit of open files",
            )


def allow_connections(limit: int) -> int:
    """Raise the limit of open files for so many connections, as far as the process may.

    Returns:
        The number of connections that is possible, so that the backends always have file descriptors left.
    """
    descriptors, maximum = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return limit
    wanted = limit + RESERVED_DESCRIPTORS
    if descriptors < wanted:
        descriptors = wanted if maximum == resource.RLIM_INFINITY else min(wanted, maximum)
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, maximum))
    return min(limit, max(descriptors - RESERVED_DESCRIPTORS, descriptors // 2))
