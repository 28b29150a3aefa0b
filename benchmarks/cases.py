"""What is measured: who is asked what, under which load, and in which state of the backends."""

from dataclasses import dataclass

from benchmarks.contender_registry import (
    BRIEFS_AT_HAND,
    BYTES_AT_HAND,
    FASTIFY,
    FASTIFY_SHARED,
    GATEWAY,
    HELLO_ASGI,
    HELLO_FASTAPI,
    PER_REQUEST,
    SECOND_GATEWAY,
    TUTORIAL,
    Contender,
)
from benchmarks.load import Kind

CONNECTIONS = 32
"""Where nothing else is said."""

FEW_TO_MANY = (1, 8, 32, 128)
PLACES_IN_A_CALL = (1, 2, 5, 10, 20)
OUTBOX_DEPTHS = (0, 1_000, 10_000, 100_000)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing to measure, once in each round."""

    name: str
    asked: tuple[Contender, ...] = ()
    """The connections are split over them; none is the upstream itself."""
    kind: Kind = "brief"
    connections: int = CONNECTIONS
    cold: bool = False
    """No weather is kept, and each place is asked for once; else all weather is kept before."""
    caches: bool = True
    """Whether it keeps any weather at all."""
    places_in_a_call: int = 1
    upstream_s: float = 0
    """Seconds that the upstream takes longer."""
    upstream_dead: bool = False
    outbox: int | None = None
    """So many events wait in the outbox, and the broker takes none."""
    stretch: float = 1
    """How much longer this one is measured."""


def warm(contender: Contender, connections: int) -> Case:
    """Briefs of which the weather is kept."""
    return Case(name=f"{contender.name}, {connections}", asked=(contender,), connections=connections)


def several(places: int) -> Case:
    """Briefs of several places in one call."""
    return Case(name=f"gateway, {places} in a call", asked=(GATEWAY,), kind="briefs", places_in_a_call=places)


def waiting(depth: int) -> Case:
    """An observation reported while so many events wait."""
    return Case(name=f"gateway, outbox {depth}", asked=(GATEWAY,), kind="observation", outbox=depth)


PER_REQUEST_BRIEF = Case(name="per request", asked=(PER_REQUEST,), caches=False, stretch=4)
TUTORIAL_BRIEF = Case(name="tutorial", asked=(TUTORIAL,), caches=False)
FASTAPI_ROOF = Case(name="FastAPI hello", asked=(HELLO_FASTAPI,), kind="hello")
ASGI_ROOF = Case(name="raw ASGI hello", asked=(HELLO_ASGI,), kind="hello")
BYTES_ROOF = Case(name="FastAPI, bytes at hand", asked=(BYTES_AT_HAND,))
BRIEFS_ROOF = Case(name="gateway, briefs at hand", asked=(BRIEFS_AT_HAND,))
TUNED = warm(FASTIFY, CONNECTIONS)
SHARED = warm(FASTIFY_SHARED, CONNECTIONS)
WARM = warm(GATEWAY, CONNECTIONS)
COLD = Case(name="gateway, cold", asked=(GATEWAY,), cold=True)
TWENTY = several(20)
OBSERVATION = Case(name="gateway, observation written", asked=(GATEWAY,), kind="observation")
UPSTREAM_20 = Case(name="gateway, cold, upstream 20 ms", asked=(GATEWAY,), cold=True, upstream_s=0.02)
UPSTREAM_200 = Case(name="gateway, cold, upstream 200 ms", asked=(GATEWAY,), cold=True, upstream_s=0.2)
DEAD = Case(name="gateway, upstream dead", asked=(GATEWAY,), kind="brief without weather", upstream_dead=True)
TWO_WORKERS = Case(name="two gateways", asked=(GATEWAY, SECOND_GATEWAY))
ALONE_COLD = Case(name="gateway, one client, cold", asked=(GATEWAY,), connections=1, cold=True, upstream_s=0.02)
ALONE_COLD_PEER = Case(
    name="Fastify, tuned, one client, cold", asked=(FASTIFY,), connections=1, cold=True, upstream_s=0.02
)
ALONE_UPSTREAM = Case(name="upstream, one client", kind="forecast", connections=1, upstream_s=0.02)

AT_32 = [
    PER_REQUEST_BRIEF,
    TUTORIAL_BRIEF,
    FASTAPI_ROOF,
    ASGI_ROOF,
    BYTES_ROOF,
    BRIEFS_ROOF,
    TUNED,
    SHARED,
    WARM,
    COLD,
    TWENTY,
    OBSERVATION,
    UPSTREAM_20,
    UPSTREAM_200,
    DEAD,
]
AT_OTHERS = [
    warm(contender, number) for number in FEW_TO_MANY for contender in (FASTIFY, GATEWAY) if number != CONNECTIONS
]
SCALE = [TWO_WORKERS, *(several(places) for places in PLACES_IN_A_CALL[:-1])]
ALONE = [ALONE_UPSTREAM, ALONE_COLD, ALONE_COLD_PEER]
OUTBOX = [waiting(depth) for depth in OUTBOX_DEPTHS]

COMPARED = [TUTORIAL_BRIEF, FASTAPI_ROOF, ASGI_ROOF, BYTES_ROOF, BRIEFS_ROOF, TUNED, SHARED, WARM]
CASES = [
    PER_REQUEST_BRIEF,
    *COMPARED * 3,
    *(case for case in AT_32 if case not in (PER_REQUEST_BRIEF, *COMPARED, DEAD)),
    *AT_OTHERS,
    *SCALE,
    *ALONE,
    DEAD,
]
"""In this order in each round. What is compared most is measured most, in turns; what harms comes last."""

EVERY = [*AT_32, *AT_OTHERS, *SCALE, *ALONE, *OUTBOX]
