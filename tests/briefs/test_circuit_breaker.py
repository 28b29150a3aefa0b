"""Leaving a backend alone: not too early, not for longer than it is away, and at no request's expense."""

import asyncio

import pytest

from gateway.briefs import circuit_breaker as module
from gateway.briefs.circuit_breaker import FAILURE_THRESHOLD, CircuitBreaker, CircuitOpenError
from gateway.concurrency import TaskPool
from tests.support.waiting import wait_until


class Backend:
    def __init__(self) -> None:
        self.error: Exception | None = ConnectionError("gone")
        self.calls = 0

    def ask(self) -> "asyncio.Future[str]":
        self.calls += 1
        return asyncio.ensure_future(self._answer())

    async def _answer(self) -> str:
        if self.error is not None:
            raise self.error
        return "an answer"


@pytest.fixture(autouse=True)
def probe_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROBE_INTERVAL", 0.01)


async def fail(breaker: CircuitBreaker, backend: Backend, times: int) -> None:
    for _ in range(times):
        with pytest.raises(Exception) as raised:  # noqa: PT011 - which one, is said below
            await breaker.call(backend.ask)
        assert raised.value is backend.error


async def test_a_backend_is_asked_until_it_has_failed_too_often_in_a_row() -> None:
    questions, backend = TaskPool(), Backend()
    breaker = CircuitBreaker(questions.spawn)
    await fail(breaker, backend, FAILURE_THRESHOLD - 1)
    assert not breaker.is_open

    await fail(breaker, backend, 1)
    assert breaker.is_open
    with pytest.raises(CircuitOpenError):
        await breaker.call(backend.ask)
    assert backend.calls == FAILURE_THRESHOLD
    await questions.aclose()


async def test_a_success_in_between_starts_the_count_anew() -> None:
    backend = Backend()
    breaker = CircuitBreaker(TaskPool().spawn)
    await fail(breaker, backend, FAILURE_THRESHOLD - 1)
    backend.error = None
    assert await breaker.call(backend.ask) == "an answer"
    backend.error = ConnectionError("gone again")
    await fail(breaker, backend, FAILURE_THRESHOLD - 1)

    assert not breaker.is_open


async def test_it_is_asked_again_as_soon_as_a_probe_was_answered() -> None:
    questions, backend = TaskPool(), Backend()
    breaker = CircuitBreaker(questions.spawn)
    await fail(breaker, backend, FAILURE_THRESHOLD)

    async def probed_in_vain() -> bool:
        return backend.calls > FAILURE_THRESHOLD + 2

    await wait_until(probed_in_vain, "it is probed again and again")
    assert breaker.is_open
    backend.error = None

    async def closed() -> bool:
        return not breaker.is_open

    await wait_until(closed, "a probe is answered")
    assert await breaker.call(backend.ask) == "an answer"
    assert not questions._tasks, "it is probed no more"


async def test_a_refusal_of_one_question_is_no_trouble() -> None:
    questions, backend = TaskPool(), Backend()
    breaker = CircuitBreaker(questions.spawn, is_failure=lambda error: not isinstance(error, ValueError))
    backend.error = ValueError("no such place")
    await fail(breaker, backend, 2 * FAILURE_THRESHOLD)

    assert not breaker.is_open


async def test_a_question_that_is_never_answered_does_not_keep_the_others_waiting() -> None:
    questions, backend, other = TaskPool(), Backend(), Backend()
    other.error = None
    breaker = CircuitBreaker(questions.spawn)
    await fail(breaker, backend, FAILURE_THRESHOLD)
    with pytest.raises(CircuitOpenError):
        await breaker.call(other.ask)

    async def closed() -> bool:
        return not breaker.is_open

    await wait_until(closed, "the probe asks what was wanted last")


async def test_the_probing_ends_with_the_work_in_the_background() -> None:
    questions, backend = TaskPool(), Backend()
    before = asyncio.all_tasks()
    await fail(CircuitBreaker(questions.spawn), backend, FAILURE_THRESHOLD)
    await questions.aclose()

    assert asyncio.all_tasks() == before
