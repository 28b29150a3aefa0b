"""Looking places up together: one set of deadlines for all who ask at once, and nothing asked that nobody waits for."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import create_async_engine

from gateway.briefs import place_loader as module
from gateway.briefs.models import Reason
from gateway.briefs.place_loader import MAX_BATCHES_IN_FLIGHT, PlaceLoader, PlaceUnavailableError
from gateway.briefs.queries import CachedEntry, PlaceRecord
from gateway.concurrency import TaskPool
from gateway.places.queries import Place
from gateway.resources.reading import DatabaseReader, RedisReader
from tests.support import waiting

TIMEOUT = 1.0  # of a brief


class Backends:
    """Stand in for what asks PostgreSQL and Redis: they answer at once, unless they are told not to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[Sequence[int]] = []
        self.places: list[Sequence[int]] = []
        self.kept: list[Sequence[int]] = []
        self.redis_answers = asyncio.Event()
        self.redis_answers.set()
        self.rows_fail = False
        self.unknown: set[int] = set()
        self.places_fail = False
        monkeypatch.setattr(module, "fetch_places_with_observations", self._places_with_observations)
        monkeypatch.setattr(module, "fetch_places", self._only_places)
        monkeypatch.setattr(module, "fetch_cached", self._fetch_kept)

    async def _places_with_observations(self, _: object, place_ids: Sequence[int]) -> dict[int, PlaceRecord]:
        self.rows.append(place_ids)
        if self.rows_fail:
            raise ConnectionRefusedError
        return {place_id: PlaceRecord(place(place_id), []) for place_id in place_ids if place_id not in self.unknown}

    async def _only_places(self, _: object, place_ids: Sequence[int]) -> dict[int, Place]:
        self.places.append(place_ids)
        if self.places_fail:
            raise ConnectionRefusedError
        return {place_id: place(place_id) for place_id in place_ids}

    async def _fetch_kept(self, _: object, place_ids: Sequence[int]) -> dict[int, CachedEntry]:
        self.kept.append(place_ids)
        await self.redis_answers.wait()
        return {place_id: CachedEntry(None, b"7") for place_id in place_ids}


def place(place_id: int) -> Place:
    return Place(place_id, "Bern", "Bern", "CH", "BE", 46.9, 7.4, 1, "Europe/Zurich", 0)


@pytest.fixture
async def backends(monkeypatch: pytest.MonkeyPatch) -> Backends:
    return Backends(monkeypatch)


@pytest.fixture
async def questions() -> AsyncIterator[TaskPool]:
    questions = TaskPool()
    yield questions
    await questions.aclose()


@pytest.fixture
async def lookups(questions: TaskPool, backends: Backends) -> PlaceLoader:
    del backends
    return PlaceLoader(
        DatabaseReader(create_async_engine("postgresql+asyncpg://nobody@localhost/none")),  # never connected
        RedisReader(Redis()),
        tasks=questions,
        timeout=TIMEOUT,
        call_timeout=5,
    )


async def test_all_who_ask_in_one_tick_share_a_lookup(lookups: PlaceLoader, backends: Backends) -> None:
    one, other = await asyncio.gather(lookups.load([1]), lookups.load([2, 3]))

    assert one is other
    assert set(one.places) == {1, 2, 3}
    assert (backends.rows, backends.kept) == ([[1, 2, 3]], [[1, 2, 3]])
    assert one.cached_if_ready(3) == CachedEntry(None, b"7")


async def test_redis_is_not_waited_for_longer_than_its_share_and_may_still_come(
    lookups: PlaceLoader, backends: Backends
) -> None:
    backends.redis_answers.clear()
    lookup = await lookups.load([1])
    assert lookup.cached_if_ready(1) is None

    backends.redis_answers.set()
    assert (await lookup.cached.until(lookup.deadline))[1].views == b"7"
    assert lookup.cached_if_ready(1) is not None


async def test_what_redis_is_late_with_is_not_asked_for_once_no_brief_waits_for_it(
    lookups: PlaceLoader, backends: Backends
) -> None:
    """Else, back again, it would be busy with what nobody wants, and late for those who come then."""
    backends.redis_answers.clear()
    under_way = [await lookups.load([place_id]) for place_id in range(MAX_BATCHES_IN_FLIGHT)]
    late = await lookups.load([7])
    with pytest.raises(TimeoutError):
        await late.cached.until(late.deadline + TIMEOUT)
    backends.redis_answers.set()
    fresh = await lookups.load([8])

    assert fresh.cached_if_ready(8) is not None
    assert backends.kept == [*([lookup] for lookup in range(len(under_way))), [8]]


async def test_for_places_that_do_not_exist_redis_is_not_waited_for(
    lookups: PlaceLoader, backends: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CACHE_SHARE", 1000)  # a wait for Redis would take as many seconds
    backends.redis_answers.clear()
    backends.unknown = {1}
    async with asyncio.timeout(waiting.TIMEOUT):
        lookup = await lookups.load([1])

    assert lookup.places == {}


async def test_without_observations_the_places_are_asked_for_alone(lookups: PlaceLoader, backends: Backends) -> None:
    backends.rows_fail = True
    lookup = await lookups.load([1, 2])

    assert backends.places == [[1, 2]]
    assert lookup.places[2] == PlaceRecord(place(2), None, Reason.REFUSED)


async def test_without_the_database_all_who_shared_the_lookup_are_told(
    lookups: PlaceLoader, backends: Backends
) -> None:
    backends.rows_fail = backends.places_fail = True
    errors = await asyncio.gather(lookups.load([1]), lookups.load([2]), return_exceptions=True)

    assert [type(error) for error in errors] == [PlaceUnavailableError, PlaceUnavailableError]
    assert isinstance(errors[0], PlaceUnavailableError)
    assert errors[0].reason is Reason.REFUSED


async def test_a_lookup_under_way_when_we_are_stopped_says_that_the_place_cannot_be_had(
    questions: TaskPool, lookups: PlaceLoader, backends: Backends
) -> None:
    """Were it cancelled, so would be whoever asked, whom nobody has cancelled."""
    backends.redis_answers.clear()
    asking = asyncio.create_task(lookups.load([1]))
    await asyncio.sleep(0)
    await questions.aclose()

    with pytest.raises(PlaceUnavailableError):
        await asking


async def test_a_lookup_has_begun_when_the_first_asked_for_it(lookups: PlaceLoader) -> None:
    """Whatever else the event loop does in that tick, it is their time that passes."""
    blocked: list[float] = []

    def block_the_loop() -> None:
        blocked.append(time.monotonic())
        time.sleep(0.05)

    before = time.monotonic()
    asking = asyncio.create_task(lookups.load([1]))
    asyncio.get_running_loop().call_soon(block_the_loop)
    lookup = await asking

    assert before <= lookup.started_at <= blocked[0]
    assert lookup.places_elapsed >= 0.05
