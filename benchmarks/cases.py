"""The cases: each is a contender, a workload, a load and a state of the backends."""

from dataclasses import dataclass

from benchmarks.contender_registry import (
    DEFAULT_DEADLINE,
    FASTIFY,
    FASTIFY_SHARED,
    GATEWAY,
    HELLO_FASTAPI,
    ONE_BY_ONE,
    PER_REQUEST,
    PRECOMPUTED_BRIEFS,
    PRECOMPUTED_BYTES,
    TUTORIAL,
    Contender,
)
from benchmarks.workloads import Workload

DEFAULT_CONNECTIONS = 32
CONNECTION_COUNTS = (1, 32, 128, 512)
OVERLOAD_CONNECTIONS = 2_000
RESPONSE_TIMEOUT = 0.8  # seconds; the gateway's default deadline


@dataclass(frozen=True, kw_only=True)
class Case:
    """One case. A round measures it at least once.

    Attributes:
        name: unique; `--only` searches it.
        contender: the server under load. None: the upstream itself.
        workload: the kind of request.
        connections: open connections, each with one request in flight.
        cold: no weather is cached, and each place is requested once. Otherwise all weather is cached beforehand.
        caches_weather: false for contenders without a weather cache.
        places_per_call: the number of places in a request for several briefs.
        upstream_delay: additional seconds until the upstream responds.
        upstream_down: the upstream is not running.
        response_timeout: None, or seconds that make the load an overload (see `LoadSpec`).
        duration_factor: multiplies the duration of the measurement.
    """

    name: str
    contender: Contender | None
    workload: Workload = "brief"
    connections: int = DEFAULT_CONNECTIONS
    cold: bool = False
    caches_weather: bool = True
    places_per_call: int = 1
    upstream_delay: float = 0
    upstream_down: bool = False
    response_timeout: float | None = None
    duration_factor: float = 1

    @property
    def alone(self) -> bool:
        """Only its contender is running. The relays of others would publish its events, too."""
        return self.workload == "observation"


def warm_brief(contender: Contender, connections: int = DEFAULT_CONNECTIONS) -> Case:
    """Return the case of briefs with cached weather."""
    return Case(name=f"{contender.name}, {connections}", contender=contender, connections=connections)


def cold_brief(contender: Contender) -> Case:
    """Return the case of briefs without cached weather."""
    return Case(name=f"{contender.name}, cold", contender=contender, cold=True)


def write(contender: Contender) -> Case:
    """Return the case of new observations."""
    return Case(name=f"{contender.name}, write", contender=contender, workload="observation")


def single_client(name: str, contender: Contender | None, workload: Workload = "brief") -> Case:
    """Return the case of one client whose requests wait for the upstream."""
    return Case(name=name, contender=contender, workload=workload, connections=1, cold=True, upstream_delay=0.02)


PER_REQUEST_BRIEF = Case(name=PER_REQUEST.name, contender=PER_REQUEST, caches_weather=False, duration_factor=4)
TUTORIAL_BRIEF = Case(name=TUTORIAL.name, contender=TUTORIAL, caches_weather=False)
FASTAPI_CEILING = Case(name=HELLO_FASTAPI.name, contender=HELLO_FASTAPI, workload="hello")
BYTES_CEILING = Case(name=PRECOMPUTED_BYTES.name, contender=PRECOMPUTED_BYTES)
BRIEFS_CEILING = Case(name=PRECOMPUTED_BRIEFS.name, contender=PRECOMPUTED_BRIEFS)
WARM = warm_brief(GATEWAY)
WARM_128 = warm_brief(GATEWAY, 128)
WARM_512 = warm_brief(GATEWAY, 512)
FASTIFY_WARM = warm_brief(FASTIFY)
FASTIFY_WARM_128 = warm_brief(FASTIFY, 128)
FASTIFY_SHARED_WARM = warm_brief(FASTIFY_SHARED)
TWENTY_PLACES = Case(name="gateway, 20 places", contender=GATEWAY, workload="briefs", places_per_call=20)
TWENTY_COLD_PLACES = Case(
    name="gateway, 20 places, cold", contender=GATEWAY, workload="briefs", places_per_call=20, cold=True
)
UPSTREAM_DOWN = Case(
    name="gateway, upstream down", contender=GATEWAY, workload="brief without weather", upstream_down=True
)
COLD, COLD_ONE_BY_ONE, COLD_FASTIFY, COLD_FASTIFY_SHARED = map(
    cold_brief, (GATEWAY, ONE_BY_ONE, FASTIFY, FASTIFY_SHARED)
)
WRITE, WRITE_ONE_BY_ONE, WRITE_FASTIFY, WRITE_FASTIFY_SHARED = map(
    write, (GATEWAY, ONE_BY_ONE, FASTIFY, FASTIFY_SHARED)
)
SINGLE_CLIENT_UPSTREAM = single_client("upstream, one client", None, "forecast")
SINGLE_CLIENT_COLD = single_client("gateway, one client, cold", GATEWAY)
SINGLE_CLIENT_COLD_FASTIFY = single_client("Fastify, tuned, one client, cold", FASTIFY)
OVERLOAD = Case(
    name=f"gateway, {OVERLOAD_CONNECTIONS:,}",
    contender=DEFAULT_DEADLINE,
    connections=OVERLOAD_CONNECTIONS,
    response_timeout=RESPONSE_TIMEOUT,
    duration_factor=2,
)

CEILINGS = [FASTAPI_CEILING, BYTES_CEILING, BRIEFS_CEILING]
WARM_BRIEFS = [PER_REQUEST_BRIEF, TUTORIAL_BRIEF, FASTIFY_WARM, FASTIFY_SHARED_WARM, WARM, TWENTY_PLACES, UPSTREAM_DOWN]
COLD_BRIEFS = [COLD, COLD_ONE_BY_ONE, COLD_FASTIFY, COLD_FASTIFY_SHARED, TWENTY_COLD_PLACES]
WRITES = [WRITE, WRITE_ONE_BY_ONE, WRITE_FASTIFY, WRITE_FASTIFY_SHARED]
OTHER_CONNECTIONS = [
    warm_brief(contender, connections)
    for connections in CONNECTION_COUNTS
    for contender in (GATEWAY, FASTIFY)
    if connections != DEFAULT_CONNECTIONS
]
SINGLE_CLIENT = [SINGLE_CLIENT_UPSTREAM, SINGLE_CLIENT_COLD, SINGLE_CLIENT_COLD_FASTIFY]

ALL_CASES = [*CEILINGS, *WARM_BRIEFS, *OTHER_CONNECTIONS, *COLD_BRIEFS, *WRITES, *SINGLE_CLIENT, OVERLOAD]

# The targets with the smallest margins are ratios between these cases. A round measures them three times, in turns.
COMPARED = [TUTORIAL_BRIEF, FASTAPI_CEILING, FASTIFY_WARM, WARM, WARM_128, FASTIFY_WARM_128, WARM_512]
# The case with a stopped server and the overload come last, so that a recovery cannot affect another case of the round.
_LAST = [UPSTREAM_DOWN, OVERLOAD]
ROUND = [*COMPARED * 3, *(case for case in ALL_CASES if case not in (*COMPARED, *_LAST)), *_LAST]
