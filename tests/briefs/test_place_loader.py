"""The place loader: one load for all callers of a tick, deadlines for each backend, and results that may arrive late."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import create_async_engine

from gateway.briefs import place_loader as module
from gateway.briefs.models import Reason
from gateway.briefs.pinned_connections import PinnedConnections
from gateway.briefs.place_loader import (
    MAX_BATCHES_IN_FLIGHT,
    LoadedPlaces,
    PlaceLoader,
    PlaceUnavailableError,
)
from gateway.briefs.queries import CachedEntry, PlaceRecord
from gateway.concurrency import TaskPool
from gateway.places.queries import Place
from tests.support.waiting import TIMEOUT, wait_until

LONG = 2 * TIMEOUT  # a timeout that no test reaches
SHORT_SHARE = 0.001  # of LONG

ENTRY = CachedEntry(None, b"7")


class FakeBackends:
    """PostgreSQL and Redis as the loader calls them. They respond immediately, unless a test holds them or lets them fail.

    Attributes:
        record_calls: the place ids of each statement for places with observations.
        place_calls: the same for places alone.
        cached_calls: the same for each command to Redis.
        missing: places that do not exist.
    """

    def __init__(self) -> None:
        self.record_calls: list[Sequence[int]] = []
        self.place_calls: list[Sequence[int]] = []
        self.cached_calls: list[Sequence[int]] = []
        self.missing: set[int] = set()
        self.records_error: Exception | None = None
        self.places_error: Exception | None = None
        self.redis_error: Exception | None = None
        self.records_respond = _set_event()
        self.places_respond = _set_event()
        self.redis_responds = _set_event()

    async def fetch_places_with_observations(self, _: object, place_ids: Sequence[int]) -> dict[int, PlaceRecord]:
        self.record_calls.append(place_ids)
        await self.records_respond.wait()
        if self.records_error is not None:
            raise self.records_error
        return {place_id: PlaceRecord(place(place_id), []) for place_id in place_ids if place_id not in self.missing}

    async def fetch_places(self, _: object, place_ids: Sequence[int]) -> dict[int, Place]:
        self.place_calls.append(place_ids)
        await self.places_respond.wait()
        if self.places_error is not None:
            raise self.places_error
        return {place_id: place(place_id) for place_id in place_ids}

    async def fetch_cached(self, _: object, place_ids: Sequence[int]) -> dict[int, CachedEntry]:
        self.cached_calls.append(place_ids)
        await self.redis_responds.wait()
        if self.redis_error is not None:
            raise self.redis_error
        return dict.fromkeys(place_ids, ENTRY)


def _set_event() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


def place(place_id: int) -> Place:
    return Place(place_id, "Bern", "Bern", "CH", "BE", 46.9, 7.4, 1, "Europe/Zurich", 0)


@pytest.fixture
async def backends(monkeypatch: pytest.MonkeyPatch) -> FakeBackends:
    backends = FakeBackends()
    for name in ("fetch_places_with_observations", "fetch_places", "fetch_cached"):
        monkeypatch.setattr(module, name, getattr(backends, name))
    return backends


@pytest.fixture
async def tasks() -> AsyncIterator[TaskPool]:
    tasks = TaskPool()
    yield tasks
    await tasks.aclose()


MakeLoader = Callable[[float], PlaceLoader]


@pytest.fixture
async def make_loader(tasks: TaskPool, backends: FakeBackends) -> MakeLoader:
    """Create a loader for briefs that may take a number of seconds."""
    del backends  # the loader calls these
    database = PinnedConnections(create_async_engine("postgresql+asyncpg://gateway@localhost/none"))  # never connects
    return lambda timeout: PlaceLoader(database, Redis(), tasks=tasks, timeout=timeout, call_timeout=LONG)


class TestPlaceLoad:
    async def test_one_load_for_a_tick(self, make_loader: MakeLoader, backends: FakeBackends) -> None:
        """Callers in the same tick of the event loop share a load, with one statement and one command."""
        loader = make_loader(LONG)
        first, second = await asyncio.gather(loader.load([1]), loader.load([2, 3]))

        assert first is second
        assert set(first.places) == {1, 2, 3}
        assert first.cached_if_ready(3) == ENTRY
        assert backends.record_calls == [[1, 2, 3]]
        assert backends.cached_calls == [[1, 2, 3]]

    async def test_started_at_of_first_caller(self, make_loader: MakeLoader) -> None:
        """A load starts when its first caller submits, even if the event loop is busy before it is sent."""
        blocked: list[float] = []

        def block_the_loop() -> None:
            blocked.append(time.monotonic())
            time.sleep(0.05)

        before = time.monotonic()
        task = asyncio.create_task(make_loader(LONG).load([1]))
        asyncio.get_running_loop().call_soon(block_the_loop)
        loaded = await task

        assert before <= loaded.started_at <= blocked[0]
        assert loaded.places_elapsed >= 0.05

    async def test_wait_before_the_load_counts(self, make_loader: MakeLoader, backends: FakeBackends) -> None:
        """The timeout counts from the request. A load whose deadline has passed calls no backend."""
        with pytest.raises(PlaceUnavailableError) as raised:
            await make_loader(LONG).load([1], time.monotonic() - LONG)

        assert raised.value.reason is Reason.TIMEOUT
        assert backends.record_calls == backends.cached_calls == []

    async def test_slow_redis_delays_no_load(
        self, make_loader: MakeLoader, backends: FakeBackends, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A load waits for Redis for its share only. A later response reaches its waiters as soon as it arrives."""
        monkeypatch.setattr(module, "CACHE_SHARE", SHORT_SHARE)
        backends.redis_responds.clear()
        loaded = await make_loader(LONG).load([1])
        assert loaded.cached_if_ready(1) is None

        backends.redis_responds.set()
        async with asyncio.timeout(TIMEOUT):
            assert await loaded.wait_for_cached(1) == ENTRY
        assert loaded.cached_if_ready(1) == ENTRY

    async def test_late_command_is_not_sent(self, make_loader: MakeLoader, backends: FakeBackends) -> None:
        """A command that waits for Redis is dropped at its deadline, so that a recovered Redis does not process it."""
        loader = make_loader(1.0)
        backends.redis_responds.clear()
        for place_id in range(MAX_BATCHES_IN_FLIGHT):
            await loader.load([place_id])
        late = await loader.load([7])
        with pytest.raises(TimeoutError):
            await late.wait_for_cached(7)
        await asyncio.wait({late.cached}, timeout=TIMEOUT)
        backends.redis_responds.set()
        fresh = await loader.load([8])

        assert await fresh.wait_for_cached(8) == ENTRY
        assert backends.cached_calls == [*([place_id] for place_id in range(MAX_BATCHES_IN_FLIGHT)), [8]]

    async def test_missing_places_skip_redis(self, make_loader: MakeLoader, backends: FakeBackends) -> None:
        """If no place exists, the load does not wait for Redis."""
        backends.redis_responds.clear()
        backends.missing = {1}
        loader = make_loader(1000 * TIMEOUT)  # waiting for Redis would take a share of that
        async with asyncio.timeout(TIMEOUT):
            loaded = await loader.load([1])

        assert loaded.places == {}

    async def test_redis_failure(self, make_loader: MakeLoader, backends: FakeBackends) -> None:
        """A failure of Redis does not fail the load. It is raised where its values are awaited."""
        backends.redis_error = ConnectionRefusedError()
        loaded = await make_loader(LONG).load([1])

        assert loaded.places[1].observations == []
        assert loaded.cached_if_ready(1) is None
        with pytest.raises(ConnectionRefusedError):
            await loaded.wait_for_cached(1)

    async def test_redis_call_ended_by_shutdown(
        self, make_loader: MakeLoader, backends: FakeBackends, tasks: TaskPool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Closing the task pool raises an error in the waiters for Redis. It does not cancel them."""
        monkeypatch.setattr(module, "CACHE_SHARE", SHORT_SHARE)
        backends.redis_responds.clear()
        loaded = await make_loader(LONG).load([1])
        waiter = asyncio.create_task(loaded.wait_for_cached(1))
        await asyncio.sleep(0)
        await tasks.aclose()

        with pytest.raises(ConnectionError):
            await waiter

    async def test_load_ended_by_shutdown(
        self, make_loader: MakeLoader, backends: FakeBackends, tasks: TaskPool
    ) -> None:
        """Closing the task pool raises an error in the callers of a load. It does not cancel them."""
        backends.redis_responds.clear()
        caller = asyncio.create_task(make_loader(LONG).load([1]))
        await asyncio.sleep(0)
        await tasks.aclose()

        with pytest.raises(PlaceUnavailableError):
            await caller


class TestFallback:
    """Places without observations, if those cannot be loaded."""

    async def test_failed_observations(self, make_loader: MakeLoader, backends: FakeBackends) -> None:
        """If the places with observations fail, the places are loaded alone, with the reason."""
        backends.records_error = ConnectionRefusedError()
        loaded = await make_loader(LONG).load([1, 2])

        assert backends.place_calls == [[1, 2]]
        assert loaded.places[2] == PlaceRecord(place(2), None, backends.records_error)

    async def test_slow_observations(
        self, make_loader: MakeLoader, backends: FakeBackends, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If the places with observations exceed their share of time, the places are loaded alone."""
        monkeypatch.setattr(module, "OBSERVATIONS_SHARE", SHORT_SHARE)
        backends.records_respond.clear()
        async with asyncio.timeout(TIMEOUT):
            loaded = await make_loader(LONG).load([1])

        assert loaded.places[1].observations is None
        assert isinstance(loaded.places[1].error, TimeoutError)

    async def test_late_observations_win(
        self, make_loader: MakeLoader, backends: FakeBackends, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Places with observations are used if they arrive before the places alone."""
        monkeypatch.setattr(module, "OBSERVATIONS_SHARE", SHORT_SHARE)
        backends.records_respond.clear()
        backends.places_respond.clear()
        caller = asyncio.create_task(make_loader(LONG).load([1]))
        await wait_until(lambda: bool(backends.place_calls), "the places are loaded alone")
        backends.records_respond.set()
        async with asyncio.timeout(TIMEOUT):
            loaded = await caller

        assert loaded.places[1] == PlaceRecord(place(1), [])

    async def test_late_failure_of_observations(
        self, make_loader: MakeLoader, backends: FakeBackends, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A failure of the places with observations does not end the load of the places alone."""
        monkeypatch.setattr(module, "OBSERVATIONS_SHARE", SHORT_SHARE)
        backends.records_respond.clear()
        backends.records_error = ConnectionRefusedError()
        backends.places_respond.clear()
        caller = asyncio.create_task(make_loader(LONG).load([1]))
        await wait_until(lambda: bool(backends.place_calls), "the places are loaded alone")
        backends.records_respond.set()
        for _ in range(20):
            await asyncio.sleep(0)  # until the loader has received the failure
        backends.places_respond.set()
        async with asyncio.timeout(TIMEOUT):
            loaded = await caller

        assert loaded.places[1].observations is None
        assert isinstance(loaded.places[1].error, TimeoutError)

    async def test_unavailable_database(self, make_loader: MakeLoader, backends: FakeBackends) -> None:
        """Without the database, each caller of the load gets an error with the reason."""
        loader = make_loader(LONG)
        backends.records_error = backends.places_error = ConnectionRefusedError()
        errors = await asyncio.gather(loader.load([1]), loader.load([2]), return_exceptions=True)

        assert [type(error) for error in errors] == [PlaceUnavailableError, PlaceUnavailableError]
        assert isinstance(errors[0], PlaceUnavailableError)
        assert errors[0].reason is Reason.REFUSED


class TestWaitForCached:
    """Waiting for the values of Redis, with a future instead of a call."""

    @pytest.fixture
    async def cached(self) -> "asyncio.Future[Mapping[int, CachedEntry]]":
        return asyncio.get_running_loop().create_future()

    async def test_deadline(self, cached: "asyncio.Future[Mapping[int, CachedEntry]]") -> None:
        """At the deadline the waiter gets TimeoutError, and the future stays pending."""
        now = time.monotonic()
        with pytest.raises(TimeoutError):
            await LoadedPlaces(now, now + 0.01, cached).wait_for_cached(1)

        assert not cached.done()

    async def test_cancelled_future(self, cached: "asyncio.Future[Mapping[int, CachedEntry]]") -> None:
        """If the future is cancelled, its waiter gets TimeoutError, because it was not cancelled itself."""
        now = time.monotonic()
        loaded = LoadedPlaces(now, now + LONG, cached)
        asyncio.get_running_loop().call_soon(cached.cancel)

        async with asyncio.timeout(TIMEOUT):
            with pytest.raises(TimeoutError, match="deadline"):
                await loaded.wait_for_cached(1)
        assert loaded.cached_if_ready(1) is None

    async def test_result_outlives_deadline(self, cached: "asyncio.Future[Mapping[int, CachedEntry]]") -> None:
        """A result that arrived in time is still available after the deadline."""
        now = time.monotonic()
        loaded = LoadedPlaces(now - 1, now, cached)
        cached.set_result({1: ENTRY})
        cached.cancel()  # as at the deadline

        assert await loaded.wait_for_cached(1) == ENTRY
        assert loaded.cached_if_ready(1) == ENTRY

    async def test_cancelled_waiter(self, cached: "asyncio.Future[Mapping[int, CachedEntry]]") -> None:
        """A cancelled waiter does not affect other waiters."""
        now = time.monotonic()
        loaded = LoadedPlaces(now, now + LONG, cached)
        cancelled, other = (asyncio.create_task(loaded.wait_for_cached(1)) for _ in range(2))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait({cancelled}, timeout=TIMEOUT)
        assert cancelled.cancelled()
        assert not cached.done()

        cached.set_result({1: ENTRY})
        async with asyncio.timeout(TIMEOUT):
            assert await other == ENTRY

    async def test_waiter_with_shorter_timeout(self, cached: "asyncio.Future[Mapping[int, CachedEntry]]") -> None:
        """The shorter timeout of one waiter does not end the wait of another one."""
        now = time.monotonic()
        loaded = LoadedPlaces(now, now + LONG, cached)
        other = asyncio.create_task(loaded.wait_for_cached(1))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await loaded.wait_for_cached(1)

        cached.set_result({1: ENTRY})
        async with asyncio.timeout(TIMEOUT):
            assert await other == ENTRY

    async def test_elapsed(self, cached: "asyncio.Future[Mapping[int, CachedEntry]]") -> None:
        """The elapsed time stays the same after the result has arrived."""
        now = time.monotonic()
        loaded = LoadedPlaces(now, now + LONG, cached)
        cached.set_result({1: ENTRY})
        await asyncio.sleep(0)  # the callback of the future records the time

        elapsed = loaded.cached_elapsed
        assert loaded.cached_elapsed == elapsed
