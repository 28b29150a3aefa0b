"""Loads places from PostgreSQL, and their cached values from Redis, once for all briefs that are requested together."""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from redis.asyncio import Redis

from gateway.briefs.batcher import Batcher
from gateway.briefs.circuit_breaker import CircuitBreaker
from gateway.briefs.models import Reason, reason_for
from gateway.briefs.pinned_connections import PinnedConnections
from gateway.briefs.queries import (
    CachedEntry,
    PlaceRecord,
    fetch_cached,
    fetch_places,
    fetch_places_with_observations,
)
from gateway.concurrency import TaskPool, failed_future
from gateway.places.queries import Place

T = TypeVar("T")

# Shares of a brief's timeout, counted from its request. Each step has to end before the steps that need its result.
OBSERVATIONS_SHARE = 0.25  # for the places with their observations; after that, the places are loaded alone
CACHE_SHARE = 0.25  # for the cached weather; after that, it is fetched upstream
PLACE_SHARE = 0.5  # for the places, without which there is no brief
SECTION_SHARE = 0.9  # for any section; the rest is for sending the brief

MAX_BATCHES_IN_FLIGHT = 2  # of one kind; with fewer, each batch has more places
MAX_BATCH_SIZE = 100  # places


class PlaceUnavailableError(Exception):
    """The database did not return the place in time, so there is no brief.

    Attributes:
        reason: why it did not.
    """

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass
class LoadedPlaces:
    """The places of one load, and the values in Redis about them, which may arrive later.

    Attributes:
        started_at: the time (`time.monotonic()`) at which the first of the briefs was requested.
        deadline: the time (`time.monotonic()`) at which all sections have to be ready.
        cached: a future with the values in Redis by place id. It is cancelled at the deadline.
        places: the places by id, without those that do not exist.
        places_elapsed: seconds from `started_at` until PostgreSQL had returned the places.
    """

    started_at: float
    deadline: float
    cached: "asyncio.Future[Mapping[int, CachedEntry]]"
    places: Mapping[int, PlaceRecord] = field(default_factory=dict)
    places_elapsed: float = 0.0

    def __post_init__(self) -> None:
        self._cached_at: float | None = None
        self.cached.add_done_callback(self._on_cached)

    def _on_cached(self, _: object) -> None:
        self._cached_at = time.monotonic()

    @property
    def cached_elapsed(self) -> float:
        """Seconds from `started_at` until Redis responded, or until now."""
        return (self._cached_at or time.monotonic()) - self.started_at

    def cached_if_ready(self, place_id: int) -> CachedEntry | None:
        """Return the cached values of a place, or None if Redis has not responded yet or has failed."""
        return self.cached.result()[place_id] if _succeeded(self.cached) else None

    async def wait_for_cached(self, place_id: int) -> CachedEntry:
        """Wait for Redis, and return the cached values of a place.

        Raises:
            TimeoutError: Redis has not responded at the deadline.
            Exception: the error of the call to Redis.
        """
        return (await _result_by(self.cached, self.deadline))[place_id]


class PlaceLoader:
    """Loads places for briefs.

    All briefs that are requested in one iteration of the event loop share one load, with one set of deadlines. A load calls
    PostgreSQL and Redis at the same time, and does not wait for either longer than its share of the timeout:

    - If the places with their observations fail or take too long, it loads the places alone.
    - If Redis fails or takes too long, it returns without the cached values. They may still arrive until the deadline.

    Several loads can share one statement: at most `MAX_BATCHES_IN_FLIGHT` statements of a kind run at a time, and the loads
    that start meanwhile share the next one. The same holds for commands to Redis.
    """

    def __init__(
        self,
        database: PinnedConnections,
        redis: Redis,
        *,
        tasks: TaskPool,
        timeout: float,
        call_timeout: float,
        is_overload: Callable[[Exception], bool] = lambda _: False,
    ) -> None:
        """Create a loader. A brief may take `timeout` seconds, and a call to a backend `call_timeout`.

        The circuit breaker ignores the errors for which `is_overload` is true.
        """
        self._database = database
        self._redis = redis
        self._tasks = tasks
        self._timeout = timeout
        self._call_timeout = call_timeout
        self._redis_breaker = CircuitBreaker(tasks.spawn, is_inconclusive=is_overload)
        self._load_batcher = Batcher(self._start_load, max_batch_size=MAX_BATCH_SIZE)
        self._record_batcher = Batcher(
            self._load_records, max_batch_size=MAX_BATCH_SIZE, max_in_flight=MAX_BATCHES_IN_FLIGHT
        )
        self._place_batcher = Batcher(
            self._load_places, max_batch_size=MAX_BATCH_SIZE, max_in_flight=MAX_BATCHES_IN_FLIGHT
        )
        self._cache_batcher = Batcher(
            self._load_cached, max_batch_size=MAX_BATCH_SIZE, max_in_flight=MAX_BATCHES_IN_FLIGHT
        )

    async def load(self, place_ids: Collection[int], requested_at: float | None = None) -> LoadedPlaces:
        """Load several places. The result may also have places of other callers.

        Args:
            place_ids: the places to load.
            requested_at: the time (`time.monotonic()`) from which the timeout counts. None: now.

        Raises:
            PlaceUnavailableError: the database is unavailable, or the task pool is closed.
        """
        try:
            return await self._load_batcher.submit(place_ids, requested_at)
        except (TimeoutError, ConnectionError) as error:
            raise PlaceUnavailableError(reason_for(error)) from error

    def _start_load(self, place_ids: list[int], started_at: float) -> "asyncio.Future[LoadedPlaces]":
        remaining = started_at + self._timeout - time.monotonic()
        if remaining <= 0:
            return failed_future(TimeoutError("the deadline has passed before the call"))
        return self._tasks.call(self._load(place_ids, started_at), timeout=remaining)

    async def _load(self, place_ids: list[int], started_at: float) -> LoadedPlaces:
        cached = self._cache_batcher.submit(place_ids)
        loaded = LoadedPlaces(started_at, started_at + self._timeout * SECTION_SHARE, cached)
        try:
            loaded.places = await self._load_with_fallback(place_ids, started_at)
        except PlaceUnavailableError:
            cached.cancel()
            raise
        loaded.places_elapsed = time.monotonic() - started_at
        if loaded.places:
            await _wait_until_success({cached}, started_at + self._timeout * CACHE_SHARE)
        if not cached.done():
            # After the deadline, no brief waits for Redis. The batcher does not send keys whose future is cancelled.
            asyncio.get_running_loop().call_later(loaded.deadline - time.monotonic(), cached.cancel)
        return loaded

    async def _load_with_fallback(self, place_ids: list[int], started_at: float) -> Mapping[int, PlaceRecord]:
        """Load the places with their observations, or without them if those fail or take too long."""
        records = self._record_batcher.submit(place_ids)
        try:
            return await _result_by(records, started_at + self._timeout * OBSERVATIONS_SHARE)
        except Exception as error:  # noqa: BLE001 - whatever it is, the places may be available
            return await self._load_places_alone(place_ids, records, error, started_at + self._timeout * PLACE_SHARE)
        finally:
            records.cancel()

    async def _load_places_alone(
        self,
        place_ids: list[int],
        records: "asyncio.Future[Mapping[int, PlaceRecord]]",
        cause: Exception,
        deadline: float,
    ) -> Mapping[int, PlaceRecord]:
        """Load the places alone, unless `records` succeeds first.

        Args:
            place_ids: the places to load.
            records: the places with their observations, which are late or have failed.
            cause: why places that are loaded alone have no observations.
            deadline: the time (`time.monotonic()`) until which to wait.

        Raises:
            PlaceUnavailableError: neither succeeds by the deadline.
        """
        places = self._place_batcher.submit(place_ids)
        try:
            await _wait_until_success({records, places}, deadline)
            if _succeeded(records):
                return records.result()
            loaded = await _result_by(places, deadline)
        except Exception as error:
            raise PlaceUnavailableError(reason_for(error)) from error
        finally:
            places.cancel()
        return {place_id: PlaceRecord(place, None, cause) for place_id, place in loaded.items()}

    def _load_records(self, place_ids: list[int], _: float) -> "asyncio.Future[Mapping[int, PlaceRecord]]":
        return self._tasks.call(fetch_places_with_observations(self._database, place_ids), timeout=self._call_timeout)

    def _load_places(self, place_ids: list[int], _: float) -> "asyncio.Future[Mapping[int, Place]]":
        return self._tasks.call(fetch_places(self._database, place_ids), timeout=self._call_timeout)

    def _load_cached(self, place_ids: list[int], _: float) -> "asyncio.Future[Mapping[int, CachedEntry]]":
        def fetch() -> "asyncio.Future[Mapping[int, CachedEntry]]":
            return self._tasks.call(fetch_cached(self._redis, place_ids), timeout=self._call_timeout)

        return self._redis_breaker.call(fetch)


async def _result_by(future: "asyncio.Future[T]", deadline: float) -> T:
    """Wait for a future until `deadline` (`time.monotonic()`), and do not cancel it then: other tasks may wait for it.

    A cancelled future counts as late. It must not raise CancelledError here, because the caller was not cancelled.

    Raises:
        TimeoutError: there is no result.
        Exception: the exception of the future.
    """
    if not future.done():
        await asyncio.wait({future}, timeout=max(0, deadline - time.monotonic()))
    if not future.done() or future.cancelled():
        raise TimeoutError("no response before the deadline")
    return future.result()


async def _wait_until_success(futures: "set[asyncio.Future[Any]]", deadline: float) -> None:
    """Wait until one of the futures succeeds or all of them have failed, at most until `deadline`."""
    pending = {future for future in futures if not future.done()}
    while pending and not any(map(_succeeded, futures)) and (timeout := deadline - time.monotonic()) > 0:
        _, pending = await asyncio.wait(pending, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)


def _succeeded(future: "asyncio.Future[Any]") -> bool:
    return future.done() and not future.cancelled() and future.exception() is None
