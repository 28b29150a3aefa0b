"""The metrics of the gateway and of the worker: what they measure already, with names after OpenTelemetry's conventions."""

from collections.abc import Sequence
from typing import Any, cast

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool

from gateway.briefs.service import BriefService
from gateway.briefs.view_publisher import ViewPublisher
from gateway.event_loop import EventLoopMonitor
from gateway.events.consumer import Consumer
from gateway.lifecycle import EventType, Journal
from gateway.observations.relay import OutboxRelay
from gateway.readiness import Readiness, ReadinessStatus
from gateway.resources import database as database_resource
from gateway.resources import redis as redis_resource
from gateway.telemetry.instruments import Instrument, Values, observe

SECTIONS = Instrument(
    "gateway.brief.sections", "counter", "{section}", "Sections of briefs, by status and by the reason if it is not ok"
)
CACHE_LOOKUPS = Instrument(
    "gateway.weather_cache.lookups", "counter", "{lookup}", "Lookups of cached weather: fresh, stale or a miss"
)
OUTBOX_ENTRIES = Instrument(
    "gateway.outbox.entries",
    "gauge",
    "{entry}",
    "Events in the outbox that wait, fail or are parked; at most 10,000 each",
)
OUTBOX_AGE = Instrument("gateway.outbox.oldest.age", "gauge", "s", "Age of the oldest event that waits in the outbox")
DEAD_LETTERS = Instrument("gateway.dead_letters", "gauge", "{message}", "Messages in the queue of dead letters")
DROPPED_VIEWS = Instrument("gateway.views.dropped", "counter", "{view}", "Views that were dropped instead of published")
EVENT_LOOP_LAG = Instrument(
    "gateway.event_loop.lag", "gauge", "s", "Longest delay of the event loop in the last seconds"
)
HEALTHY_ENTRIES = Instrument(
    "gateway.entry.healthy", "gauge", "{entry}", "1 if the health check of an entry succeeds, or else 0"
)
LIFECYCLE_DURATION = Instrument(
    "gateway.lifecycle.duration", "gauge", "s", "Duration of the latest step of an entry: enter or exit"
)
CONNECTIONS = Instrument("db.client.connection.count", "sum", "{connection}", "Connections of a pool, by state")
MAX_CONNECTIONS = Instrument("db.client.connection.max", "sum", "{connection}", "Maximum of connections of a pool")
REJECTED_MESSAGES = Instrument(
    "gateway.messages.rejected", "counter", "{message}", "Messages that the worker has rejected, by queue"
)
MESSAGES_IN_FLIGHT = Instrument(
    "gateway.messages.in_flight", "sum", "{message}", "Messages that the worker processes, by queue"
)

_POOLS = (CONNECTIONS, MAX_CONNECTIONS)
GATEWAY_INSTRUMENTS = (
    SECTIONS,
    CACHE_LOOKUPS,
    OUTBOX_ENTRIES,
    OUTBOX_AGE,
    DEAD_LETTERS,
    DROPPED_VIEWS,
    EVENT_LOOP_LAG,
    HEALTHY_ENTRIES,
    LIFECYCLE_DURATION,
    *_POOLS,
)
WORKER_INSTRUMENTS = (REJECTED_MESSAGES, MESSAGES_IN_FLIGHT, LIFECYCLE_DURATION, *_POOLS)

_STEPS = {
    EventType.ENTERED: "enter",
    EventType.ENTER_FAILED: "enter",
    EventType.EXITED: "exit",
    EventType.EXIT_FAILED: "exit",
    EventType.ABORTED: "exit",
}


def observe_gateway(
    journal: Journal,
    *,
    readiness: Readiness,
    event_loop: EventLoopMonitor,
    database: AsyncEngine,
    redis: Redis,
    relay: OutboxRelay,
    views: ViewPublisher,
    briefs: BriefService,
) -> None:
    """Export the metrics of a gateway, if metrics are recorded. Each collection runs the health checks, as `/readyz` does."""
    latest: list[ReadinessStatus] = []

    async def refresh() -> None:
        latest[:] = [await readiness.report()]

    def read() -> Values:
        yield from _brief_values(briefs)
        yield from _relay_values(relay)
        yield DROPPED_VIEWS, views.dropped, {}
        yield EVENT_LOOP_LAG, event_loop.recent_lag(), {}
        for report in latest:
            for check in report.checks:
                yield HEALTHY_ENTRIES, int(check.ok), {"gateway.entry": check.name}
        yield from _lifecycle_values(journal)
        yield from _pool_values(database, redis)

    observe(GATEWAY_INSTRUMENTS, read, refresh=refresh)


def observe_worker(
    journal: Journal, *, database: AsyncEngine, redis: Redis, consumers: Sequence[Consumer[Any]]
) -> None:
    """Export the metrics of a worker, if metrics are recorded."""

    def read() -> Values:
        for consumer in consumers:
            attributes = {"messaging.destination.name": consumer.queue_name}
            yield REJECTED_MESSAGES, consumer.rejected, attributes
            yield MESSAGES_IN_FLIGHT, consumer.in_flight, attributes
        yield from _lifecycle_values(journal)
        yield from _pool_values(database, redis)

    observe(WORKER_INSTRUMENTS, read)


def _brief_values(briefs: BriefService) -> Values:
    for (section, status, reason), count in briefs.section_counts.items():
        attributes = {"gateway.section": section, "gateway.section.status": status.value}
        yield SECTIONS, count, attributes if reason is None else attributes | {"gateway.section.reason": reason.value}
    for result, count in briefs.cache_lookups.items():
        yield CACHE_LOOKUPS, count, {"gateway.cache.result": result}


def _relay_values(relay: OutboxRelay) -> Values:
    """Return the values of the latest health check."""
    if relay.counts is not None:
        states = {
            "waiting": relay.counts.waiting - relay.counts.failing,
            "failing": relay.counts.failing,
            "parked": relay.counts.parked,
        }
        for state, count in states.items():
            yield OUTBOX_ENTRIES, count, {"gateway.outbox.state": state}
        yield OUTBOX_AGE, relay.counts.oldest_age or 0.0, {}
    if relay.dead_letters is not None:
        yield DEAD_LETTERS, relay.dead_letters, {}


def _lifecycle_values(journal: Journal) -> Values:
    durations = {
        (event.name, _STEPS[event.type]): event.duration
        for event in journal
        if event.name is not None and event.duration is not None and event.type in _STEPS
    }
    for (entry, step), duration in durations.items():
        yield LIFECYCLE_DURATION, duration, {"gateway.entry": entry, "gateway.step": step}


def _pool_values(database: AsyncEngine, redis: Redis) -> Values:
    pool = cast("QueuePool", database.pool)
    (idle, _), (used, _) = redis.connection_pool.get_connection_count()
    pools = (
        ("postgresql", pool.checkedin(), pool.checkedout(), database_resource.MAX_CONNECTIONS),
        ("redis", idle, used, redis_resource.MAX_CONNECTIONS),
    )
    for name, idle_connections, used_connections, maximum in pools:
        attributes = {"db.client.connection.pool.name": name}
        yield CONNECTIONS, idle_connections, attributes | {"db.client.connection.state": "idle"}
        yield CONNECTIONS, used_connections, attributes | {"db.client.connection.state": "used"}
        yield MAX_CONNECTIONS, maximum, attributes
