"""Looking up what PostgreSQL and Redis know about places: once for all briefs that are asked for together."""

import asyncio
import contextlib
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from gateway.briefs.asked import Asked
from gateway.briefs.batcher import Batcher
from gateway.briefs.circuit_breaker import CircuitBreaker
from gateway.briefs.kept import CachedEntry, fetch_kept
from gateway.briefs.models import Reason
from gateway.briefs.queries import PlaceRecord, only_places, places_with_observations
from gateway.briefs.reasons import reason_for
from gateway.concurrency import TaskPool
from gateway.places.queries import Place
from gateway.resources.reading import DatabaseReader, RedisReader

# How much of the brief's time its parts have, counted from when it was asked for: each gets less than the whole, so that there is
# time left for what waits for it, and to answer.

SHARE = 0.9
"""For any section."""

PLACE_SHARE = 0.5
"""For the place: the weather waits for it."""

OBSERVATIONS_SHARE = 0.25
"""For the place with its observations. If that is not enough, the place is asked for alone."""

KEPT_SHARE = 0.25
"""For what Redis keeps of the weather. Then it is asked for upstream."""

AT_ONCE = 2
"""How many batches to one backend are under way at most: the fewer, the more questions share one."""

FULL = 100
"""A batch that has as many places takes no further question in; the last one may have brought it beyond."""


class PlaceUnavailableError(Exception):
    """The database did not say in time what place that is, so there is nothing to ask the others about."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass
class LoadedPlaces:
    """What there is about some places."""

    began: float
    """When the first of them was asked for (`time.monotonic()`)."""
    by: float
    """When the last section has to be there."""
    known: Mapping[int, PlaceRecord]
    """What PostgreSQL knows, by place. Those that do not exist are left out."""
    known_took: float
    """Seconds until PostgreSQL had told it."""
    kept: Asked[Mapping[int, CachedEntry]]
    """What Redis keeps, by place. It has had its time for the weather, but may still come."""

    def kept_by_now(self, place_id: int) -> CachedEntry | None:
        """What Redis keeps of a place, unless that has not come yet."""
        return self.kept.answer[place_id] if self.kept.has_come else None


class PlaceLoader:
    """Looks places up. What is asked for in one tick of the event loop shares a lookup until it is full, with one set of deadlines.

    Lookups share their statements and commands: while enough of these are under way, those of several wait for the next.
    """

    def __init__(
        self, database: DatabaseReader, redis: RedisReader, *, questions: TaskPool, timeout: float, call_within: float
    ) -> None:
        """Ask nothing yet. `timeout` is how many seconds a brief has, `call_within` how many a call to a backend."""
        self._database = database
        self._redis = redis
        self._questions = questions
        self._timeout = timeout
        self._call_within = call_within
        self._redis_breaker = CircuitBreaker(questions.spawn)
        self._lookups = Batcher(self._start, full=FULL)
        self._rows = Batcher(self._load_rows, full=FULL, at_once=AT_ONCE)
        self._places = Batcher(self._load_places, full=FULL, at_once=AT_ONCE)
        self._kept = Batcher(self._load_kept, full=FULL, at_once=AT_ONCE)

    async def ask(self, place_ids: Collection[int]) -> LoadedPlaces:
        """Look places up. The lookup may have more than these.

        Raises:
            PlaceUnavailableError: the database is away, or we are being stopped.
        """
        try:
            return await self._lookups.ask(place_ids)
        except (TimeoutError, ConnectionError) as error:
            raise PlaceUnavailableError(reason_for(error)) from error

    def _start(self, place_ids: list[int], began: float) -> "asyncio.Future[LoadedPlaces]":
        return self._questions.call(self._look_up(place_ids, began), timeout=self._timeout)

    async def _look_up(self, place_ids: list[int], began: float) -> LoadedPlaces:
        by = began + self._timeout * SHARE
        rows = Asked(self._rows.ask(place_ids), began)
        kept = Asked(self._kept.ask(place_ids), began)
        try:
            known = await self._known(place_ids, rows, began)
            if known:
                with contextlib.suppress(Exception):  # Redis is away, or late: the weather can be had without it
                    await kept.until(began + self._timeout * KEPT_SHARE)
        except PlaceUnavailableError:
            kept.give_up()
            raise
        finally:
            rows.give_up()
        if kept.is_open:
            asyncio.get_running_loop().call_later(by - time.monotonic(), kept.give_up)
        return LoadedPlaces(began, by, known, rows.took, kept)

    async def _known(
        self, place_ids: list[int], rows: Asked[Mapping[int, PlaceRecord]], began: float
    ) -> Mapping[int, PlaceRecord]:
        """What PostgreSQL knows: all of it, or the places alone if that comes first where the rest fails or takes long."""
        try:
            return await rows.until(began + self._timeout * OBSERVATIONS_SHARE)
        except Exception as error:  # noqa: BLE001 - whatever it is, the places may be there
            reason = reason_for(error)
        alone = Asked(self._places.ask(place_ids), began)
        try:
            await rows.or_until(alone, began + self._timeout * PLACE_SHARE)
            if rows.has_come:
                return rows.answer
            places = await alone.until(0)
        except Exception as error:
            raise PlaceUnavailableError(reason_for(error)) from error
        finally:
            alone.give_up()
        return {place_id: PlaceRecord(place, None, reason) for place_id, place in places.items()}

    def _load_rows(self, place_ids: list[int], _: float) -> "asyncio.Future[Mapping[int, PlaceRecord]]":
        return self._questions.call(places_with_observations(self._database, place_ids), timeout=self._call_within)

    def _load_places(self, place_ids: list[int], _: float) -> "asyncio.Future[Mapping[int, Place]]":
        return self._questions.call(only_places(self._database, place_ids), timeout=self._call_within)

    def _load_kept(self, place_ids: list[int], _: float) -> "asyncio.Future[Mapping[int, CachedEntry]]":
        """Ask Redis, unless it has been failing."""

        def ask() -> "asyncio.Future[Mapping[int, CachedEntry]]":
            return self._questions.call(fetch_kept(self._redis, place_ids), timeout=self._call_within)

        return self._redis_breaker.call(ask)
