"""The fetcher: one call for all places that are requested together, and what it does if the upstream cannot process them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from starlette.datastructures import QueryParams
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs

from gateway.briefs import places_per_call, weather_fetcher
from gateway.briefs.circuit_breaker import FAILURE_THRESHOLD, CircuitOpenError
from gateway.briefs.forecasts import UpstreamError
from gateway.briefs.places_per_call import MAX_PLACES_PER_CALL
from gateway.briefs.weather import CachedWeather, Weather
from gateway.briefs.weather_fetcher import WeatherFetcher
from gateway.concurrency import TaskPool
from gateway.devstack.open_meteo import forecast
from gateway.places.queries import Place
from gateway.resources.http import HttpClient
from gateway.settings import HttpSettings
from tests.support.http_server import http_server
from tests.support.waiting import TIMEOUT, wait_until

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)

Forecasts = list[Any]
Fault = Callable[[Forecasts], Response]


def respond(places: Forecasts) -> Response:
    """Respond without a fault."""
    return JSONResponse(places)


def respond_with_first(places: Forecasts) -> Response:
    """Respond without a fault to the call of a single place."""
    return JSONResponse(places[0])


class Upstream:
    """A server with the API of Open-Meteo.

    Attributes:
        calls: the latitudes of each call.
        list_fault: makes the response to a list from the forecasts of its places.
        place_faults: the same for the call of a single place, by latitude.
        responds: responses wait for this event.
    """

    def __init__(self) -> None:
        self.calls: list[list[float]] = []
        self.list_fault: Fault = respond
        self.place_faults: dict[float, Fault] = {}
        self.responds = asyncio.Event()
        self.responds.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = QueryParams(str(scope["query_string"], "ascii"))
        result = forecast(query, now=NOW)
        latitudes = [float(latitude) for latitude in query["latitude"].split(",")]
        self.calls.append(latitudes)
        await self.responds.wait()
        if isinstance(result, list):
            response = self.list_fault(result)
        else:
            response = self.place_faults.get(latitudes[0], respond_with_first)([result])
        await response(scope, receive, send)

    @property
    def sizes(self) -> list[int]:
        """The number of places of each call."""
        return [len(call) for call in self.calls]


class Store:
    """The weather that was stored, by place id. A test can hold the storing.

    Attributes:
        fetched: the ids of the places of each call that have weather.
    """

    def __init__(self) -> None:
        self.stored: dict[int, CachedWeather] = {}
        self.fetched: list[list[int]] = []
        self.responds = asyncio.Event()
        self.responds.set()

    async def on_fetched(self, weather: Sequence[tuple[Place, Weather]]) -> None:
        self.fetched.append([place.id for place, _ in weather])

    async def __call__(self, entries: Mapping[int, CachedWeather]) -> None:
        await self.responds.wait()
        self.stored |= entries


@pytest.fixture
async def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
async def http(upstream: Upstream) -> AsyncIterator[httpx.AsyncClient]:
    async with http_server(upstream) as port:
        resource = HttpClient(HttpSettings(weather_url=SecretStr(f"http://127.0.0.1:{port}")), "test")
        async with resource.open() as client:
            yield client


@pytest.fixture
async def tasks() -> AsyncIterator[TaskPool]:
    tasks = TaskPool()
    yield tasks
    await tasks.aclose()


@pytest.fixture
async def store() -> Store:
    return Store()


@pytest.fixture
async def fetcher(http: httpx.AsyncClient, tasks: TaskPool, store: Store) -> WeatherFetcher:
    return new_fetcher(http, tasks, store)


def new_fetcher(http: httpx.AsyncClient, tasks: TaskPool, store: Store) -> WeatherFetcher:
    return WeatherFetcher(
        http, tasks=tasks, timeout=TIMEOUT, is_overload=lambda _: False, on_fetched=store.on_fetched, store=store
    )


def place(latitude: int) -> Place:
    """Return a place whose id is its latitude."""
    return Place(latitude, "", "", "", "", latitude, 8.0, 0, "UTC", 0)


async def fetch(fetcher: WeatherFetcher, *latitudes: int) -> list[CachedWeather | BaseException]:
    """Fetch places together, and return the weather or the error of each."""
    fetches = [fetcher.start(place(latitude)) for latitude in latitudes]
    async with asyncio.timeout(TIMEOUT):
        results = await asyncio.gather(*fetches, return_exceptions=True)
    await wait_until(lambda: not fetcher._in_flight, "the weather is stored")
    return results


def temperature_at(latitude: int) -> float:
    query = QueryParams(f"latitude={latitude}&longitude=8&current=temperature_2m&timezone=auto")
    result = forecast(query, now=NOW)
    assert isinstance(result, dict)
    return float(result["current"]["temperature_2m"])


def has_weather(latitude: int, result: CachedWeather | BaseException) -> bool:
    """Return whether the result is the weather of this place."""
    return isinstance(result, CachedWeather) and result.weather.temperature_c == temperature_at(latitude)


class TestGroups:
    async def test_one_call(self, fetcher: WeatherFetcher, upstream: Upstream, store: Store) -> None:
        """Places that are requested together share a call. Each has its own weather, which is stored."""
        results = await fetch(fetcher, 40, 50, 60)

        assert all(map(has_weather, (40, 50, 60), results))
        assert upstream.calls == [[40, 50, 60]]
        assert store.stored == dict(zip((40, 50, 60), results, strict=True))

    async def test_successive_iterations(self, fetcher: WeatherFetcher, upstream: Upstream) -> None:
        """Places that are requested in successive iterations of the event loop share a call."""
        fetches = []
        for latitude in (40, 50, 60, 70):
            fetches.append(fetcher.start(place(latitude)))
            await asyncio.sleep(0)
        await asyncio.gather(*fetches)

        assert upstream.calls == [[40, 50, 60, 70]]

    async def test_slow_iterations(
        self, fetcher: WeatherFetcher, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While each iteration of a busy event loop brings a further place, a call starts after a short time."""
        monkeypatch.setattr(weather_fetcher, "GROUP_TIMEOUT", 0.0)
        fetches = []
        for latitude in (40, 50, 60, 70):
            fetches.append(fetcher.start(place(latitude)))
            await asyncio.sleep(0)
        await asyncio.gather(*fetches)

        assert len(upstream.calls) > 1
        assert sorted(latitude for call in upstream.calls for latitude in call) == [40, 50, 60, 70]

    async def test_full_groups(self, fetcher: WeatherFetcher, upstream: Upstream) -> None:
        """A call has at most `MAX_PLACES_PER_CALL` places."""
        results = await fetch(fetcher, *range(-60, 60))

        assert all(map(has_weather, range(-60, 60), results))
        assert sorted(upstream.sizes) == [20, MAX_PLACES_PER_CALL, MAX_PLACES_PER_CALL]

    async def test_single_flight(self, fetcher: WeatherFetcher, upstream: Upstream, store: Store) -> None:
        """A place is in flight until its weather is stored, and all callers share its fetch."""
        store.responds.clear()
        first = fetcher.start(place(40))
        assert fetcher.in_flight(place(40)) is first
        await first
        assert fetcher.in_flight(place(40)) is first
        store.responds.set()
        await wait_until(lambda: fetcher.in_flight(place(40)) is None, "the weather is stored")

        assert upstream.sizes == [1]

    async def test_no_wait_for_calls_in_flight(self, fetcher: WeatherFetcher, upstream: Upstream) -> None:
        """A call does not wait for earlier ones."""
        upstream.responds.clear()
        first = fetcher.start(place(40))
        await wait_until(lambda: upstream.sizes == [1], "the first call is in flight")
        second = fetcher.start(place(50))
        await wait_until(lambda: upstream.sizes == [1, 1], "the second call is in flight")
        upstream.responds.set()

        assert has_weather(40, await first)
        assert has_weather(50, await second)

    async def test_places_wait_together(
        self, http: httpx.AsyncClient, upstream: Upstream, tasks: TaskPool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While all calls are in flight, further places collect for the next one."""
        monkeypatch.setattr(weather_fetcher, "MAX_CONCURRENT_CALLS", 1)
        fetcher = new_fetcher(http, tasks, Store())
        upstream.responds.clear()
        fetches = [fetcher.start(place(40))]
        await wait_until(lambda: upstream.sizes == [1], "the first call is in flight")
        for latitude in (50, 60, 70):
            fetches.append(fetcher.start(place(latitude)))
            await asyncio.sleep(0)  # each in another iteration of the event loop
        upstream.responds.set()
        async with asyncio.timeout(TIMEOUT):
            await asyncio.gather(*fetches)

        assert upstream.calls == [[40], [50, 60, 70]]

    async def test_end_of_the_pool(self, fetcher: WeatherFetcher, upstream: Upstream, tasks: TaskPool) -> None:
        """The end of the task pool cancels the calls, and wakes their callers."""
        upstream.responds.clear()
        fetches = [fetcher.start(place(40)), fetcher.start(place(50))]
        await wait_until(lambda: upstream.sizes == [2], "the call is in flight")
        await tasks.aclose(drain_timeout=0)
        upstream.responds.set()

        assert all(fetch.cancelled() for fetch in fetches)
        assert fetcher.in_flight(place(40)) is None


UNUSABLE: dict[str, Any] = {
    "null": None,
    "text": "no data",
    "error": {"error": True, "reason": "No data is available for this location"},
    "empty": {},
    "wrong types": {"utc_offset_seconds": 0, "current": {"time": 7}, "daily": []},
}


class TestUnusablePlace:
    @pytest.mark.parametrize("entry", UNUSABLE)
    async def test_others_have_weather(
        self, fetcher: WeatherFetcher, upstream: Upstream, store: Store, entry: str
    ) -> None:
        """An entry that is no forecast is an error of its place, and the others have their weather."""
        upstream.list_fault = lambda places: JSONResponse([places[0], UNUSABLE[entry], places[2]])
        first, second, third = await fetch(fetcher, 40, 50, 60)

        assert has_weather(40, first)
        assert isinstance(second, UpstreamError)
        assert has_weather(60, third)
        assert store.fetched == [[40, 60]]
        assert fetcher.in_flight(place(50)) is None
        assert upstream.sizes == [3]

    async def test_not_a_number(self, fetcher: WeatherFetcher, upstream: Upstream) -> None:
        """An entry with NaN, which is not JSON, affects no other."""

        def respond_with_nan(places: Forecasts) -> Response:
            places[1]["current"]["temperature_2m"] = -12345
            return Response(bytes(JSONResponse(places).body).replace(b"-12345", b"NaN"))

        upstream.list_fault = respond_with_nan
        first, second = await fetch(fetcher, 40, 50)

        assert has_weather(40, first)
        assert isinstance(second, UpstreamError)

    async def test_rejects_its_list(self, fetcher: WeatherFetcher, upstream: Upstream) -> None:
        """A place that the upstream rejects, alone and in a list, costs the others a call each, and no later list is split."""
        upstream.list_fault = upstream.place_faults[50] = lambda _: Response(status_code=400)
        first, second, third = await fetch(fetcher, 40, 50, 60)
        upstream.list_fault = respond
        later = await fetch(fetcher, 41, 42)

        assert has_weather(40, first)
        assert isinstance(second, httpx.HTTPStatusError)
        assert has_weather(60, third)
        assert all(map(has_weather, (41, 42), later))
        assert upstream.sizes == [3, 1, 1, 1, 2]

    async def test_next_fetch_survives(self, fetcher: WeatherFetcher, upstream: Upstream, store: Store) -> None:
        """A place that has failed can be fetched again while the other places of its list are still in flight."""
        upstream.list_fault = upstream.place_faults[50] = lambda _: Response(status_code=400)
        store.responds.clear()
        first, failed = fetcher.start(place(40)), fetcher.start(place(50))
        await asyncio.wait({first, failed})
        del upstream.place_faults[50]
        upstream.responds.clear()
        second = fetcher.start(place(50))
        await wait_until(lambda: upstream.sizes == [2, 1, 1, 1], "the place is fetched again")
        store.responds.set()
        await wait_until(lambda: fetcher.in_flight(place(40)) is None, "the list has ended")
        assert fetcher.in_flight(place(50)) is second
        upstream.responds.set()

        assert has_weather(50, await second)


REFUSALS: dict[str, Fault] = {
    **{str(status): lambda _, status=status: Response(status_code=status) for status in (400, 413, 414, 422, 431, 500)},  # type: ignore[misc]
    "first place only": respond_with_first,
    "too few": lambda places: JSONResponse(places[1:]),
    "other order": lambda places: JSONResponse(places[::-1]),
    "an object": lambda places: JSONResponse({"items": places}),
    "no forecast": lambda places: JSONResponse([None] * len(places)),
    "garbage": lambda _: Response(b"\xff<html>"),
    "truncated": lambda places: Response(bytes(JSONResponse(places).body[:-10])),
    "nested": lambda _: Response(b"[" * 100_000),
    "too large": lambda _: Response(b" " * 300_000),
}


class TestRefusedLists:
    @pytest.mark.parametrize("refusal", REFUSALS)
    async def test_single_calls(self, fetcher: WeatherFetcher, upstream: Upstream, refusal: str) -> None:
        """An upstream that does not process lists is called for each place, later without another list, and logged once."""
        upstream.list_fault = REFUSALS[refusal]
        with capture_logs() as logs:
            first = await fetch(fetcher, 40, 50, 60)
            second = await fetch(fetcher, 41, 51)

        assert all(map(has_weather, (40, 50, 60, 41, 51), first + second))
        assert upstream.sizes == [3, 1, 1, 1, 1, 1]
        assert [line["event"] for line in logs] == ["weather upstream refuses lists of places"]

    async def test_lists_again(
        self, fetcher: WeatherFetcher, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After an interval, the upstream gets lists again."""
        upstream.list_fault = lambda _: Response(status_code=400)
        await fetch(fetcher, 40, 50)
        upstream.list_fault = respond
        monkeypatch.setattr(places_per_call, "LIST_RETRY_INTERVAL", 0)
        await fetch(fetcher, 40, 50)

        assert upstream.sizes == [2, 1, 1, 2]

    async def test_neighbours_on_a_coarse_grid(self, fetcher: WeatherFetcher, upstream: Upstream) -> None:
        """The forecast is that of a point of the upstream's grid, which may be on the other side of the date line."""

        def move(places: Forecasts) -> Response:
            return JSONResponse([places[0] | {"longitude": -179.5}, places[1] | {"latitude": -50.9}])

        upstream.list_fault = move
        fetches = [fetcher.start(Place(number, "", "", "", "", -50, 179.9, 0, "UTC", 0)) for number in (1, 2)]
        await asyncio.gather(*fetches)

        assert upstream.sizes == [2]


class TestFailures:
    @pytest.mark.parametrize("status", [401, 403, 429, 502])
    async def test_no_single_calls(self, fetcher: WeatherFetcher, upstream: Upstream, status: int) -> None:
        """An error that is not about the list is one of all places, and they are not called one by one."""
        upstream.list_fault = lambda _: Response(status_code=status, headers={"Retry-After": "1"})
        results = await fetch(fetcher, 40, 50)

        assert all(isinstance(result, httpx.HTTPStatusError) for result in results)
        assert upstream.sizes == [2]

    async def test_retry(self, fetcher: WeatherFetcher, upstream: Upstream) -> None:
        """A list is repeated once if a proxy had no server."""
        responses: list[Fault] = [lambda _: Response(status_code=503), respond]
        upstream.list_fault = lambda places: responses.pop(0)(places)  # noqa: PLW0108 - another one for each call

        assert all(map(has_weather, (40, 50), await fetch(fetcher, 40, 50)))
        assert upstream.sizes == [2, 2]

    async def test_a_call_counts_once(self, fetcher: WeatherFetcher, upstream: Upstream) -> None:
        """A list that fails is one failure for the circuit breaker, however many places it has."""
        upstream.list_fault = lambda _: Response(status_code=429)
        for _ in range(FAILURE_THRESHOLD):
            assert not fetcher._breaker.is_open
            await fetch(fetcher, 40, 50, 60)
        (result,) = await fetch(fetcher, 40)

        assert isinstance(result, CircuitOpenError)

    async def test_refusals_do_not_count(self, fetcher: WeatherFetcher, upstream: Upstream) -> None:
        """A refused list is neither a failure nor a success: the calls for its places decide."""
        upstream.list_fault = lambda _: Response(status_code=500)
        upstream.place_faults = dict.fromkeys((40, 50), lambda _: Response(status_code=500))
        await fetch(fetcher, 40, 50)
        await fetch(fetcher, 40, 50)
        assert fetcher._breaker._failures == 4
        await fetch(fetcher, 40, 50)

        assert fetcher._breaker.is_open

    async def test_timeout_shortens_lists(self, fetcher: WeatherFetcher, upstream: Upstream) -> None:
        """After a list has timed out, the next ones are shorter."""
        fetcher._timeout = 0.05
        upstream.responds.clear()
        results = await fetch(fetcher, 40, 50, 60, 70)
        assert all(isinstance(result, TimeoutError) for result in results)
        upstream.responds.set()
        fetcher._timeout = TIMEOUT
        await fetch(fetcher, 40, 50, 60, 70)

        assert upstream.sizes[-2:] == [2, 2]  # a busy machine may not have sent the first one in time

    async def test_probe_has_one_place(self, fetcher: WeatherFetcher, upstream: Upstream) -> None:
        """The circuit breaker probes with a single place: a refused list would leave it open after a recovery."""
        upstream.list_fault = lambda _: Response(status_code=429)
        for _ in range(FAILURE_THRESHOLD):
            await fetch(fetcher, 40, 50)
        assert fetcher._breaker.is_open
        upstream.list_fault = lambda _: Response(status_code=400)
        await wait_until(lambda: not fetcher._breaker.is_open, "a probe has succeeded")

        assert upstream.calls[FAILURE_THRESHOLD:] == [[40]]
