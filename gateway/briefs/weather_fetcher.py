"""Fetches weather upstream: single flight, and one call for all places that are requested together."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import httpx
import stamina

from gateway.briefs.circuit_breaker import CircuitBreaker
from gateway.briefs.forecasts import UnusableListError, UpstreamError, fetch_weather
from gateway.briefs.places_per_call import PlacesPerCall
from gateway.briefs.weather import CachedWeather, Weather
from gateway.concurrency import TaskPool, failed_future
from gateway.places.queries import Place
from gateway.resources import http as http_errors

MAX_CONCURRENT_CALLS = 50
GROUP_TIMEOUT = 0.05  # for further places to join; an iteration of a busy event loop may take several milliseconds


@dataclass(frozen=True, slots=True)
class _Fetch:
    """The fetch of a place, which all of its callers share."""

    place: Place
    weather: "asyncio.Future[CachedWeather]"


class WeatherFetcher:
    """Fetches the weather of places upstream.

    - Callers of the same place share one fetch (single flight).
    - Places that are requested in the same iteration of the event loop, or in successive ones, share one call. While
      `MAX_CONCURRENT_CALLS` are in flight, further places wait together for the next one.
    - If the upstream refuses a list of places, each of them gets a call of its own.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        *,
        tasks: TaskPool,
        timeout: float,
        is_overload: Callable[[Exception], bool],
        on_fetched: Callable[[Sequence[tuple[Place, Weather]]], Awaitable[None]],
        store: Callable[[Mapping[int, CachedWeather]], Awaitable[None]],
    ) -> None:
        """Create a fetcher.

        Args:
            http: the client of the upstream.
            tasks: runs the calls.
            timeout: seconds that a call may take, with the retry after a failure.
            is_overload: returns whether an error is no sign of the state of the upstream, because the gateway was too busy.
            on_fetched: called with the weather of each call, before the callers get it. It must not raise.
            store: stores the weather of a call, by place id, after the callers have it. It must not raise. The places stay
                in flight meanwhile, so that no caller fetches what is about to be stored.
        """
        self._http = http
        self._tasks = tasks
        self._timeout = timeout
        self._is_overload = is_overload
        self._on_fetched = on_fetched
        self._store = store
        self._breaker = CircuitBreaker(
            tasks.spawn,
            is_failure=http_errors.is_server_failure,
            is_inconclusive=lambda error: isinstance(error, UnusableListError) or is_overload(error),
        )
        self._places_per_call = PlacesPerCall()
        self._call_slots = asyncio.Semaphore(MAX_CONCURRENT_CALLS)
        self._in_flight: dict[int, _Fetch] = {}  # by place id
        self._next_group: list[_Fetch] = []  # further places join it until its call begins

    def in_flight(self, place: Place) -> "asyncio.Future[CachedWeather] | None":
        """Return the fetch of a place that is in flight, if there is one."""
        fetch = self._in_flight.get(place.id)
        return None if fetch is None else fetch.weather

    def start(self, place: Place) -> "asyncio.Future[CachedWeather]":
        """Start the fetch that all callers of a place share, unless the upstream kept failing.

        No caller may cancel the returned future.
        """
        if self._breaker.is_open:
            return failed_future(self._breaker.reject(partial(self._call, [place])))
        fetch = self._in_flight[place.id] = _Fetch(place, asyncio.get_running_loop().create_future())
        if not self._next_group or len(self._next_group) >= self._places_per_call.bound:
            self._next_group = []
            self._tasks.spawn(self._fetch_group(self._next_group))
        self._next_group.append(fetch)
        return fetch.weather

    async def _fetch_group(self, group: list[_Fetch]) -> None:
        """Fetch places in one call, or in a call for each if the upstream refuses the list."""
        try:
            await self._wait_for_others(group)
            error = await self._fetch(group)
            if isinstance(error, UnusableListError):
                errors = await asyncio.gather(*(self._fetch([fetch]) for fetch in group))
                if not any(errors):  # otherwise, one of the places may be the reason
                    self._places_per_call.on_refusal(error)
        finally:
            for fetch in group:
                self._end(fetch)

    async def _wait_for_others(self, group: list[_Fetch]) -> None:
        """Return after the first iteration of the event loop in which no place has joined the group, or after `GROUP_TIMEOUT`.

        The briefs of a lookup continue in several iterations (see `Batcher`), and their places still share a call.
        """
        deadline = time.monotonic() + GROUP_TIMEOUT
        size = 0
        while size < len(group) < self._places_per_call.bound and time.monotonic() <= deadline:
            size = len(group)
            await asyncio.sleep(0)

    async def _fetch(self, fetches: list[_Fetch]) -> Exception | None:
        """Make one call, resolve the fetches, and store the weather. Return the error of the call.

        If that is `UnusableListError`, the fetches are not resolved.
        """
        try:
            async with self._call_slots:  # outside of the breaker: waiting for a slot is no failure of upstream
                if fetches is self._next_group:  # until now, further places could join it
                    self._next_group = []
                places = [fetch.place for fetch in fetches]
                # A list that the upstream refuses would be no sign of its state.
                probe = partial(self._call, places[:1])
                results = await self._breaker.call(partial(self._call, places), probe=probe)
        except UnusableListError as error:
            return error
        except Exception as error:  # noqa: BLE001 - it reaches the callers through the futures
            if http_errors.is_timeout(error) and not self._is_overload(error):
                self._places_per_call.on_timeout(len(fetches))
            for fetch in fetches:
                self._fail(fetch, error)
            return error
        self._places_per_call.on_success(len(fetches))
        fetched_at = time.time()
        await self._on_fetched(
            [(place, result) for place, result in zip(places, results, strict=True) if isinstance(result, Weather)]
        )
        stored = {}
        for fetch, result in zip(fetches, results, strict=True):
            if isinstance(result, UpstreamError):
                self._fail(fetch, result)
            else:
                stored[fetch.place.id] = CachedWeather(fetched_at=fetched_at, weather=result)
                fetch.weather.set_result(stored[fetch.place.id])
        await self._store(stored)
        return None

    def _call(self, places: list[Place]) -> "asyncio.Future[list[Weather | UpstreamError]]":
        return self._tasks.call(self._call_with_retry(places), timeout=self._timeout)

    async def _call_with_retry(self, places: list[Place]) -> list[Weather | UpstreamError]:
        async for attempt in stamina.retry_context(
            on=http_errors.is_retryable, attempts=2, timeout=None, wait_initial=0.02, wait_jitter=0.05
        ):
            with attempt:
                weather = await fetch_weather(self._http, places)
        return weather

    def _fail(self, fetch: _Fetch, error: Exception) -> None:
        fetch.weather.set_exception(error)
        fetch.weather.exception()  # marks it as retrieved, in case all callers are gone
        self._end(fetch)

    def _end(self, fetch: _Fetch) -> None:
        if self._in_flight.get(fetch.place.id) is fetch:  # a failed one may have a successor
            del self._in_flight[fetch.place.id]
        fetch.weather.cancel()  # no effect once resolved; on cancellation, wake all waiters
