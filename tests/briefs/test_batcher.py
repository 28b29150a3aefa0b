"""Sharing calls: what is asked for together costs one call, and nobody pays for what another one does."""

import asyncio
import time
from collections.abc import Mapping

import pytest

from gateway.briefs.batcher import RESOLVE_PER_TICK, Batcher


class Backend:
    """Answers numbers with their squares. It answers once it is let, one batch after another."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.asked: list[float] = []
        self._let = asyncio.Semaphore(0)
        self.broken = False

    def load(self, numbers: list[int], asked: float) -> "asyncio.Future[Mapping[int, int]]":
        self.batches.append(numbers)
        self.asked.append(asked)
        return asyncio.ensure_future(self._answer(numbers))

    async def _answer(self, numbers: list[int]) -> Mapping[int, int]:
        await self._let.acquire()
        if self.broken:
            raise ConnectionError("gone")
        return {number: number * number for number in numbers}

    def let(self, batches: int = 1) -> None:
        for _ in range(batches):
            self._let.release()


def batcher(backend: Backend, *, at_once: int = 1, full: int = 100) -> Batcher[int, Mapping[int, int]]:
    return Batcher(backend.load, max_in_flight=at_once, max_batch_size=full)


async def all_of(answers: "list[asyncio.Future[Mapping[int, int]]]") -> list[Mapping[int, int]]:
    return await asyncio.gather(*answers)


async def ticks(number: int = 5) -> None:
    """Let everything run that can."""
    for _ in range(number):
        await asyncio.sleep(0)


async def test_what_is_asked_for_in_one_tick_shares_one_call() -> None:
    backend = Backend()
    shared = batcher(backend)
    answers = [shared.submit(numbers) for numbers in ([1], [2, 3], [2])]
    backend.let()

    assert await all_of(answers) == [{1: 1, 2: 4, 3: 9}] * 3
    assert backend.batches == [[1, 2, 3]]


async def test_a_question_never_joins_what_was_sent_before_it_was_asked() -> None:
    """Else its answer could be older than the question."""
    backend = Backend()
    shared = batcher(backend)
    first = shared.submit([2])
    await ticks()
    second = shared.submit([2])
    backend.let(2)

    assert [await first, await second] == [{2: 4}, {2: 4}]
    assert backend.batches == [[2], [2]]


async def test_what_comes_while_enough_is_under_way_waits_and_shares_the_next_call() -> None:
    backend = Backend()
    shared = batcher(backend, at_once=2)
    answers = []
    for number in range(6):
        answers.append(shared.submit([number]))
        await ticks()

    assert backend.batches == [[0], [1]]
    backend.let(3)
    await all_of(answers)
    assert backend.batches == [[0], [1], [2, 3, 4, 5]]


async def test_a_batch_that_is_full_takes_no_more_in_and_the_rest_follows() -> None:
    backend = Backend()
    shared = batcher(backend, full=2)
    answers = [shared.submit(numbers) for numbers in ([0], [1, 2], [3], [4], [5])]
    backend.let(3)

    assert await all_of(answers) == [{0: 0, 1: 1, 2: 4}, {0: 0, 1: 1, 2: 4}, {3: 9, 4: 16}, {3: 9, 4: 16}, {5: 25}]
    assert backend.batches == [[0, 1, 2], [3, 4], [5]]


async def test_a_failure_reaches_all_who_shared_the_call_and_nobody_else() -> None:
    backend = Backend()
    shared = batcher(backend)
    backend.broken = True
    answers = [shared.submit([1]), shared.submit([2])]
    backend.let()
    outcomes = await asyncio.gather(*answers, return_exceptions=True)
    backend.broken = False
    backend.let()

    assert [type(outcome) for outcome in outcomes] == [ConnectionError, ConnectionError]
    assert await shared.submit([1]) == {1: 1}


async def test_whoever_is_cancelled_takes_nothing_from_those_who_shared_the_call() -> None:
    backend = Backend()
    shared = batcher(backend)

    async def ask(number: int) -> Mapping[int, int]:
        return await shared.submit([number])

    leaving, staying = asyncio.create_task(ask(2)), asyncio.create_task(ask(2))
    await ticks()
    leaving.cancel()
    backend.let()

    assert await staying == {2: 4}
    with pytest.raises(asyncio.CancelledError):
        await leaving


async def test_what_nobody_waits_for_any_more_is_not_asked_for() -> None:
    backend = Backend()
    shared = batcher(backend)
    first = shared.submit([1])
    await ticks()
    given_up, wanted = shared.submit([2]), shared.submit([3])
    given_up.cancel()
    backend.let(2)

    assert [await first, await wanted] == [{1: 1}, {3: 9}]
    assert backend.batches == [[1], [3]]


async def test_a_batch_knows_when_the_first_of_its_questions_was_asked() -> None:
    backend = Backend()
    shared = batcher(backend)
    given_up = shared.submit([0])
    given_up.cancel()
    between = time.monotonic()
    first, second = shared.submit([1]), shared.submit([2])
    after = time.monotonic()
    backend.let()
    await all_of([first, second])

    [asked] = backend.asked
    assert between <= asked <= after


async def test_not_all_are_told_in_one_turn_of_the_loop_but_all_are_told() -> None:
    """What one turn writes is sent at its end: the first would wait for the last."""
    backend = Backend()
    shared = batcher(backend)
    told: list[int] = []
    answers = [shared.submit([number]) for number in range(2 * RESOLVE_PER_TICK + 1)]
    for answer in answers:
        answer.add_done_callback(lambda _: told.append(turn))
    backend.let()
    for turn in range(10):  # noqa: B007 - the callbacks look at it
        await asyncio.sleep(0)

    assert [told.count(each) for each in sorted(set(told))] == [RESOLVE_PER_TICK, RESOLVE_PER_TICK, 1]


async def test_a_call_that_is_cancelled_lets_nobody_wait_for_ever() -> None:
    call: asyncio.Future[Mapping[int, int]] = asyncio.get_running_loop().create_future()
    answer = Batcher[int, Mapping[int, int]](lambda _numbers, _asked: call, max_batch_size=1).submit([1])
    await ticks()
    call.cancel()

    with pytest.raises(ConnectionError):
        await answer
