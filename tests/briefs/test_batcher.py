"""The batcher: keys share calls, and the callers of a batch do not affect each other."""

import asyncio
import time
from collections.abc import Mapping

import pytest

from gateway.briefs.batcher import RESOLVE_PER_TICK, Batcher

Squares = Mapping[int, int]


class SquaresBackend:
    """Returns the squares of numbers. It responds to one batch after another, when a test releases them.

    Attributes:
        batches: the keys of each batch.
        submitted_at: the submission time of each batch.
        failing: if true, each batch raises ConnectionError.
    """

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.submitted_at: list[float] = []
        self.failing = False
        self._released = asyncio.Semaphore(0)

    def load(self, numbers: list[int], submitted_at: float) -> "asyncio.Future[Squares]":
        self.batches.append(numbers)
        self.submitted_at.append(submitted_at)
        return asyncio.ensure_future(self._respond(numbers))

    def release(self, batches: int = 1) -> None:
        for _ in range(batches):
            self._released.release()

    async def _respond(self, numbers: list[int]) -> Squares:
        await self._released.acquire()
        if self.failing:
            raise ConnectionError("the backend is gone")
        return {number: number * number for number in numbers}


@pytest.fixture
async def backend() -> SquaresBackend:
    return SquaresBackend()


def make_batcher(
    backend: SquaresBackend, *, max_in_flight: int = 1, max_batch_size: int = 100
) -> Batcher[int, Squares]:
    return Batcher(backend.load, max_in_flight=max_in_flight, max_batch_size=max_batch_size)


async def ticks(number: int = 5) -> None:
    """Let the event loop run everything that is ready."""
    for _ in range(number):
        await asyncio.sleep(0)


class TestBatches:
    async def test_one_batch_for_a_tick(self, backend: SquaresBackend) -> None:
        """Keys that are submitted in one iteration of the event loop share one call. Each key is loaded once."""
        batcher = make_batcher(backend)
        futures = [batcher.submit(numbers) for numbers in ([1], [2, 3], [2])]
        backend.release()

        assert await asyncio.gather(*futures) == [{1: 1, 2: 4, 3: 9}] * 3
        assert backend.batches == [[1, 2, 3]]

    async def test_sent_batch_is_closed(self, backend: SquaresBackend) -> None:
        """A key does not join a batch that has been sent, because its result could be older than the call."""
        batcher = make_batcher(backend)
        first = batcher.submit([2])
        await ticks()
        second = batcher.submit([2])
        backend.release(2)

        assert [await first, await second] == [{2: 4}, {2: 4}]
        assert backend.batches == [[2], [2]]

    async def test_max_in_flight(self, backend: SquaresBackend) -> None:
        """While `max_in_flight` batches are in flight, keys wait, and all of them share the next batch."""
        batcher = make_batcher(backend, max_in_flight=2)
        futures = []
        for number in range(6):
            futures.append(batcher.submit([number]))
            await ticks()

        assert backend.batches == [[0], [1]]
        backend.release(3)
        await asyncio.gather(*futures)
        assert backend.batches == [[0], [1], [2, 3, 4, 5]]

    async def test_max_batch_size(self, backend: SquaresBackend) -> None:
        """A full batch gets no more keys: they go into the next batches. The keys of a caller stay together."""
        batcher = make_batcher(backend, max_batch_size=2)
        futures = [batcher.submit(numbers) for numbers in ([0], [1, 2], [3], [4], [5])]
        backend.release(3)

        assert await asyncio.gather(*futures) == [
            {0: 0, 1: 1, 2: 4},
            {0: 0, 1: 1, 2: 4},
            {3: 9, 4: 16},
            {3: 9, 4: 16},
            {5: 25},
        ]
        assert backend.batches == [[0, 1, 2], [3, 4], [5]]

    async def test_batch_size_counts_distinct_keys(self, backend: SquaresBackend) -> None:
        """A key that many callers submit counts once, so a popular key does not fill a batch."""
        batcher = make_batcher(backend, max_batch_size=2)
        futures = [batcher.submit(numbers) for numbers in ([1], [1], [1], [2])]
        backend.release()

        assert await asyncio.gather(*futures) == [{1: 1, 2: 4}] * 4
        assert backend.batches == [[1, 2]]

    async def test_submission_time(self, backend: SquaresBackend) -> None:
        """The submission time of a batch is that of its first caller. Cancelled callers do not count."""
        batcher = make_batcher(backend)
        cancelled = batcher.submit([0])
        cancelled.cancel()
        before = time.monotonic()
        first, second = batcher.submit([1]), batcher.submit([2])
        after = time.monotonic()
        backend.release()
        await asyncio.gather(first, second)

        (submitted_at,) = backend.submitted_at
        assert before <= submitted_at <= after


class TestCallers:
    async def test_failure(self, backend: SquaresBackend) -> None:
        """A failure reaches all callers of the batch, and no caller of the next one."""
        batcher = make_batcher(backend)
        backend.failing = True
        futures = [batcher.submit([1]), batcher.submit([2])]
        backend.release()
        errors = await asyncio.gather(*futures, return_exceptions=True)
        backend.failing = False
        backend.release()

        assert [type(error) for error in errors] == [ConnectionError, ConnectionError]
        assert await batcher.submit([1]) == {1: 1}

    async def test_cancelled_caller(self, backend: SquaresBackend) -> None:
        """A caller that is cancelled does not affect the others of its batch."""
        batcher = make_batcher(backend)

        async def square(number: int) -> Squares:
            return await batcher.submit([number])

        cancelled, other = asyncio.create_task(square(2)), asyncio.create_task(square(2))
        await ticks()
        cancelled.cancel()
        backend.release()

        assert await other == {2: 4}
        with pytest.raises(asyncio.CancelledError):
            await cancelled

    async def test_cancelled_before_sending(self, backend: SquaresBackend) -> None:
        """Keys of cancelled callers are not loaded."""
        batcher = make_batcher(backend)
        first = batcher.submit([1])
        await ticks()
        cancelled, other = batcher.submit([2]), batcher.submit([3])
        cancelled.cancel()
        backend.release(2)

        assert [await first, await other] == [{1: 1}, {3: 9}]
        assert backend.batches == [[1], [3]]

    async def test_resolved_in_portions(self, backend: SquaresBackend) -> None:
        """All callers are resolved, but only some in each iteration of the event loop, so that the first can respond."""
        batcher = make_batcher(backend)
        resolved_in: list[int] = []
        futures = [batcher.submit([number]) for number in range(2 * RESOLVE_PER_TICK + 1)]
        for future in futures:
            future.add_done_callback(lambda _: resolved_in.append(tick))
        backend.release()
        for tick in range(10):  # noqa: B007 - the callbacks read it
            await asyncio.sleep(0)

        portions = [resolved_in.count(each) for each in sorted(set(resolved_in))]
        assert portions == [RESOLVE_PER_TICK, RESOLVE_PER_TICK, 1]

    async def test_cancelled_load(self) -> None:
        """If the load is cancelled, its callers get ConnectionError, because they were not cancelled themselves."""
        loaded: asyncio.Future[Squares] = asyncio.get_running_loop().create_future()
        batcher = Batcher[int, Squares](lambda _keys, _submitted_at: loaded, max_batch_size=1)
        future = batcher.submit([1])
        await ticks()
        loaded.cancel()

        with pytest.raises(ConnectionError):
            await future
