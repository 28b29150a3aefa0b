"""The cases: each is a contender, a workload, a load and a state of the backends."""

from dataclasses import dataclass

from benchmarks.contender_registry import (
    FASTIFY,
    FASTIFY_SHARED,
    GATEWAY,
    HELLO_ASGI,
    HELLO_FASTAPI,
    PER_REQUEST,
    PRECOMPUTED_BRIEFS,
    PRECOMPUTED_BYTES,
    SECOND_GATEWAY,
    TUTORIAL,
    Contender,
)
from benchmarks.workloads import Workload

DEFAULT_CONNECTIONS = 32
CONNECTION_COUNTS = (1, 8, 32, 128)
PLACES_PER_CALL = (1, 2, 5, 10, 20)
OUTBOX_DEPTHS = (0, 1_000, 10_000, 100_000)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One case. A round measures it at least once.

    Attributes:
        name: unique; `--only` searches it.
        contenders: the servers under load; the connections are distributed over them. Empty: the upstream itself.
        workload: the kind of request.
        connections: open connections, each with one request in flight.
        cold: no weather is cached, and each place is requested once. Otherwise all weather is cached beforehand.
        caches_weather: false for contenders without a weather cache.
        places_per_call: the number of places in a request for several briefs.
        upstream_delay: additional seconds until the upstream responds.
        upstream_down: the upstream is not running.
        outbox_depth: events in the outbox while RabbitMQ is suspended; None: RabbitMQ is running.
        duration_factor: multiplies the duration of the measurement.
    """

    name: str
    contenders: tuple[Contender, ...] = ()
    workload: Workload = "brief"
    connections: int = DEFAULT_CONNECTIONS
    cold: bool = False
    caches_weather: bool = True
    places_per_call: int = 1
    upstream_delay: float = 0
    upstream_down: bool = False
    outbox_depth: int | None = None
    duration_factor: float = 1


def warm_brief(contender: Contender, connections: int) -> Case:
    """Return the case of briefs with cached weather."""
    return Case(name=f"{contender.name}, {connections}", contenders=(contender,), connections=connections)


def briefs_per_call(places: int) -> Case:
    """Return the case of several briefs in one request."""
    return Case(name=f"gateway, {places} in a call", contenders=(GATEWAY,), workload="briefs", places_per_call=places)


def write_with_outbox(depth: int) -> Case:
    """Return the case of a new observation while `depth` events are in the outbox."""
    return Case(name=f"gateway, outbox {depth}", contenders=(GATEWAY,), workload="observation", outbox_depth=depth)


PER_REQUEST_BRIEF = Case(name="per request", contenders=(PER_REQUEST,), caches_weather=False, duration_factor=4)
TUTORIAL_BRIEF = Case(name="tutorial", contenders=(TUTORIAL,), caches_weather=False)
FASTAPI_CEILING = Case(name="FastAPI hello", contenders=(HELLO_FASTAPI,), workload="hello")
ASGI_CEILING = Case(name="raw ASGI hello", contenders=(HELLO_ASGI,), workload="hello")
BYTES_CEILING = Case(name=PRECOMPUTED_BYTES.name, contenders=(PRECOMPUTED_BYTES,))
BRIEFS_CEILING = Case(name=PRECOMPUTED_BRIEFS.name, contenders=(PRECOMPUTED_BRIEFS,))
FASTIFY_WARM = warm_brief(FASTIFY, DEFAULT_CONNECTIONS)
FASTIFY_SHARED_WARM = warm_brief(FASTIFY_SHARED, DEFAULT_CONNECTIONS)
WARM = warm_brief(GATEWAY, DEFAULT_CONNECTIONS)
COLD = Case(name="gateway, cold", contenders=(GATEWAY,), cold=True)
COLD_20_MS = Case(name="gateway, cold, upstream 20 ms", contenders=(GATEWAY,), cold=True, upstream_delay=0.02)
COLD_200_MS = Case(name="gateway, cold, upstream 200 ms", contenders=(GATEWAY,), cold=True, upstream_delay=0.2)
TWENTY_PLACES = briefs_per_call(20)
TWENTY_COLD_PLACES = Case(  # with 32 connections, 640 places would be fetched at a time
    name="gateway, 20 in a call, cold",
    contenders=(GATEWAY,),
    workload="briefs",
    connections=8,
    cold=True,
    places_per_call=20,
)
OBSERVATION = Case(name="gateway, observation written", contenders=(GATEWAY,), workload="observation")
UPSTREAM_DOWN = Case(
    name="gateway, upstream dead", contenders=(GATEWAY,), workload="brief without weather", upstream_down=True
)
TWO_GATEWAYS = Case(name="two gateways", contenders=(GATEWAY, SECOND_GATEWAY))
SINGLE_CLIENT_UPSTREAM = Case(name="upstream, one client", workload="forecast", connections=1, upstream_delay=0.02)
SINGLE_CLIENT_COLD = Case(
    name="gateway, one client, cold", contenders=(GATEWAY,), connections=1, cold=True, upstream_delay=0.02
)
SINGLE_CLIENT_COLD_FASTIFY = Case(
    name="Fastify, tuned, one client, cold", contenders=(FASTIFY,), connections=1, cold=True, upstream_delay=0.02
)

AT_32_CONNECTIONS = [
    PER_REQUEST_BRIEF,
    TUTORIAL_BRIEF,
    FASTAPI_CEILING,
    ASGI_CEILING,
    BYTES_CEILING,
    BRIEFS_CEILING,
    FASTIFY_WARM,
    FASTIFY_SHARED_WARM,
    WARM,
    COLD,
    TWENTY_PLACES,
    TWENTY_COLD_PLACES,
    OBSERVATION,
    COLD_20_MS,
    COLD_200_MS,
    UPSTREAM_DOWN,
]
AT_OTHER_CONNECTIONS = [
    warm_brief(contender, connections)
    for connections in CONNECTION_COUNTS
    for contender in (FASTIFY, GATEWAY)
    if connections != DEFAULT_CONNECTIONS
]
SCALING = [TWO_GATEWAYS, *(briefs_per_call(places) for places in PLACES_PER_CALL[:-1])]
SINGLE_CLIENT = [SINGLE_CLIENT_UPSTREAM, SINGLE_CLIENT_COLD, SINGLE_CLIENT_COLD_FASTIFY]
OUTBOX = [write_with_outbox(depth) for depth in OUTBOX_DEPTHS]

ALL_CASES = [*AT_32_CONNECTIONS, *AT_OTHER_CONNECTIONS, *SCALING, *SINGLE_CLIENT, *OUTBOX]

# Most targets are ratios between these cases. A round measures them three times, in turns.
COMPARED = [
    TUTORIAL_BRIEF,
    FASTAPI_CEILING,
    ASGI_CEILING,
    BYTES_CEILING,
    BRIEFS_CEILING,
    FASTIFY_WARM,
    FASTIFY_SHARED_WARM,
    WARM,
]
# The cases with a stopped server come last, so that its recovery cannot affect another case of the round.
ROUND = [
    PER_REQUEST_BRIEF,
    *COMPARED * 3,
    *(case for case in AT_32_CONNECTIONS if case not in (PER_REQUEST_BRIEF, *COMPARED, UPSTREAM_DOWN)),
    *AT_OTHER_CONNECTIONS,
    *SCALING,
    *SINGLE_CLIENT,
    UPSTREAM_DOWN,
    *OUTBOX,
]
