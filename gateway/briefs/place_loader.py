"""Loads places from PostgreSQL, and their cached values from Redis, once for all briefs that are requested together."""

import asyncio
import contextlib
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from gateway.briefs.asked import Asked
from gateway.briefs.batcher import Batcher
from gateway.briefs.circuit_breaker import CircuitBreaker
from gateway.briefs.models import Reason, reason_for
from gateway.briefs.queries import (
    CachedEntry,
    PlaceRecord,
    fetch_cached,
    fetch_places,
    fetch_places_with_observations,
)
from gateway.concurrency import TaskPool
from gateway.places.queries import Place
from gateway.resources.reading import DatabaseReader, RedisReader

# Shares of a brief's timeout, counted from its request. Each step has to end before the steps that need its result.
OBSERVATIONS_SHARE = 0.25  # for the places with their observations; after that, the places are loaded alone
CACHE_SHARE = 0.25  # for the cached weather; after that, it is fetched upstream
PLACE_SHARE = 0.5  # for the places, without which there is no brief
SECTION_SHARE = 0.9  # for any section; the rest is for sending the brief

MAX_BATCHES_IN_FLIGHT = 2  # to one backend: the fewer, the more places share one
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
    """The places of one batch, and the values about them in Redis, which may still arrive.

    Attributes:
        started_at: the time (`time.monotonic()`) at which the first of the briefs was requested.
        deadline: the time at which their last section has to be ready.
        places: by id. Places that do not exist are left out.
        places_elapsed: the seconds that PostgreSQL took.
        cached: the values in Redis, by place id.
    """

    started_at: float
    deadline: float
    places: Mapping[int, PlaceRecord]
    places_elapsed: float
    cached: Asked[Mapping[int, CachedEntry]]

    def cached_if_ready(self, place_id: int) -> CachedEntry | None:
        """Return the values of a place, or None if they are not there yet, or are unavailable."""
        return self.cached.answer[place_id] if self.cached.has_come else None


class PlaceLoader:
    """Loads places for briefs.

    All briefs that are requested in one iteration of the event loop share one load, with one set of deadlines. Loads in turn
    share their statements and commands, because only `MAX_BATCHES_IN_FLIGHT` of these run at a time.
    """

    def __init__(
        self, database: DatabaseReader, redis: RedisReader, *, tasks: TaskPool, timeout: float, call_timeout: float
    ) -> None:
        """Create a loader. A brief may take `timeout` seconds, and a call to a backend `call_timeout`."""
        self._database = database
        self._redis = redis
        self._tasks = tasks
        self._timeout = timeout
        self._call_timeout = call_timeout
        self._redis_breaker = CircuitBreaker(tasks.spawn)
        self._loads = Batcher(self._start_load, max_batch_size=MAX_BATCH_SIZE)
        self._records = Batcher(self._load_records, max_batch_size=MAX_BATCH_SIZE, max_in_flight=MAX_BATCHES_IN_FLIGHT)
        self._places = Batcher(self._load_places, max_batch_size=MAX_BATCH_SIZE, max_in_flight=MAX_BATCHES_IN_FLIGHT)
        self._cached = Batcher(self._load_cached, max_batch_size=MAX_BATCH_SIZE, max_in_flight=MAX_BATCHES_IN_FLIGHT)

    async def load(self, place_ids: Collection[int]) -> LoadedPlaces:
        """Load several places. The result may have others, too.

        Raises:
            PlaceUnavailableError: the database is unavailable, or the task pool is closed.
        """
        try:
            return await self._loads.submit(place_ids)
        except (TimeoutError, ConnectionError) as error:
            raise PlaceUnavailableError(reason_for(error)) from error

    def _start_load(self, place_ids: list[int], started_at: float) -> "asyncio.Future[LoadedPlaces]":
        return self._tasks.call(self._load(place_ids, started_at), timeout=self._timeout)

    async def _load(self, place_ids: list[int], started_at: float) -> LoadedPlaces:
        deadline = started_at + self._timeout * SECTION_SHARE
        records = Asked(self._records.submit(place_ids), started_at)
        cached = Asked(self._cached.submit(place_ids), started_at)
        try:
            places = await self._load_with_fallback(place_ids, records, started_at)
            if places:
                with contextlib.suppress(Exception):  # without Redis, the weather is fetched upstream
                    await cached.until(started_at + self._timeout * CACHE_SHARE)
        except PlaceUnavailableError:
            cached.give_up()
            raise
        finally:
            records.give_up()
        if cached.is_open:
            asyncio.get_running_loop().call_later(deadline - time.monotonic(), cached.give_up)
        return LoadedPlaces(started_at, deadline, places, records.took, cached)

    async def _load_with_fallback(
        self, place_ids: list[int], records: Asked[Mapping[int, PlaceRecord]], started_at: float
    ) -> Mapping[int, PlaceRecord]:
        """Load the places with their observations, or without them if those fail or take too long."""
        try:
            return await records.until(started_at + self._timeout * OBSERVATIONS_SHARE)
        except Exception as error:  # noqa: BLE001 - whatever it is, the places may be available
            reason = reason_for(error)
        alone = Asked(self._places.submit(place_ids), started_at)
        try:
            await records.or_until(alone, started_at + self._timeout * PLACE_SHARE)
            if records.has_come:
                return records.answer
            places = await alone.until(0)
        except Exception as error:
            raise PlaceUnavailableError(reason_for(error)) from error
        finally:
            alone.give_up()
        return {place_id: PlaceRecord(place, None, reason) for place_id, place in places.items()}

    def _load_records(self, place_ids: list[int], _: float) -> "asyncio.Future[Mapping[int, PlaceRecord]]":
        return self._tasks.call(fetch_places_with_observations(self._database, place_ids), timeout=self._call_timeout)

    def _load_places(self, place_ids: list[int], _: float) -> "asyncio.Future[Mapping[int, Place]]":
        return self._tasks.call(fetch_places(self._database, place_ids), timeout=self._call_timeout)

    def _load_cached(self, place_ids: list[int], _: float) -> "asyncio.Future[Mapping[int, CachedEntry]]":
        def fetch() -> "asyncio.Future[Mapping[int, CachedEntry]]":
            return self._tasks.call(fetch_cached(self._redis, place_ids), timeout=self._call_timeout)

        return self._redis_breaker.call(fetch)
