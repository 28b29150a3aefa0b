"""The circuit breaker: it opens after failures, and closes when a background probe succeeds."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.briefs import circuit_breaker as module
from gateway.briefs.circuit_breaker import FAILURE_THRESHOLD, CircuitBreaker, CircuitOpenError
from gateway.concurrency import TaskPool
from tests.support.waiting import wait_until


class FailingBackend:
    """Raises `error`, or responds if that is None. It counts its calls."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.calls = 0

    def call(self) -> "asyncio.Future[str]":
        self.calls += 1
        return asyncio.ensure_future(self._respond())

    async def _respond(self) -> str:
        if self.error is not None:
            raise self.error
        return "response"


@pytest.fixture(autouse=True)
def short_probe_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROBE_INTERVAL", 0.01)


@pytest.fixture
async def backend() -> FailingBackend:
    """A backend that fails."""
    return FailingBackend(ConnectionError("the backend is gone"))


@pytest.fixture
async def tasks() -> AsyncIterator[TaskPool]:
    tasks = TaskPool()
    yield tasks
    await tasks.aclose()


@pytest.fixture
async def breaker(tasks: TaskPool) -> CircuitBreaker:
    return CircuitBreaker(tasks.spawn)


async def fail(breaker: CircuitBreaker, backend: FailingBackend, times: int) -> None:
    """Call a failing backend several times."""
    assert backend.error is not None
    for _ in range(times):
        with pytest.raises(type(backend.error)) as raised:
            await breaker.call(backend.call)
        assert raised.value is backend.error


class TestOpening:
    async def test_threshold(self, breaker: CircuitBreaker, backend: FailingBackend) -> None:
        """The breaker opens after `FAILURE_THRESHOLD` failures in a row, and then rejects calls."""
        await fail(breaker, backend, FAILURE_THRESHOLD - 1)
        assert not breaker.is_open

        await fail(breaker, backend, 1)
        assert breaker.is_open
        with pytest.raises(CircuitOpenError):
            await breaker.call(backend.call)
        assert backend.calls == FAILURE_THRESHOLD

    async def test_overload_does_not_count(self, tasks: TaskPool, backend: FailingBackend) -> None:
        """An overload of the gateway neither counts as a failure of the backend nor as a success."""
        breaker = CircuitBreaker(tasks.spawn, is_inconclusive=lambda error: isinstance(error, TimeoutError))
        overload, failure = TimeoutError("the gateway was busy"), ConnectionError("the backend is gone")
        backend.error = overload
        await fail(breaker, backend, FAILURE_THRESHOLD)
        assert not breaker.is_open

        backend.error = failure
        await fail(breaker, backend, FAILURE_THRESHOLD - 1)
        backend.error = overload
        await fail(breaker, backend, 1)
        backend.error = failure
        await fail(breaker, backend, 1)
        assert breaker.is_open

    async def test_success_resets_the_count(self, breaker: CircuitBreaker, backend: FailingBackend) -> None:
        """A success in between resets the count of failures."""
        await fail(breaker, backend, FAILURE_THRESHOLD - 1)
        backend.error = None
        assert await breaker.call(backend.call) == "response"
        backend.error = ConnectionError("the backend is gone again")
        await fail(breaker, backend, FAILURE_THRESHOLD - 1)

        assert not breaker.is_open

    async def test_other_errors(self, tasks: TaskPool) -> None:
        """Errors that are not failures of the backend do not open the breaker."""
        breaker = CircuitBreaker(tasks.spawn, is_failure=lambda error: not isinstance(error, ValueError))
        await fail(breaker, FailingBackend(ValueError("no such place")), 2 * FAILURE_THRESHOLD)

        assert not breaker.is_open

    async def test_cancelled_calls(self, breaker: CircuitBreaker, backend: FailingBackend) -> None:
        """Calls that their callers cancel do not open the breaker."""
        for _ in range(2 * FAILURE_THRESHOLD):
            result = breaker.call(backend.call)
            result.cancel()
            await asyncio.wait({result})

        assert not breaker.is_open


class TestProbes:
    async def test_recovery(self, breaker: CircuitBreaker, backend: FailingBackend) -> None:
        """The breaker probes until a probe succeeds. Then it closes, and stops probing."""
        before = asyncio.all_tasks()
        await fail(breaker, backend, FAILURE_THRESHOLD)
        await wait_until(lambda: backend.calls > FAILURE_THRESHOLD + 2, "several probes have failed")
        assert breaker.is_open

        backend.error = None
        await wait_until(lambda: not breaker.is_open, "a probe succeeds")
        assert await breaker.call(backend.call) == "response"
        await wait_until(lambda: asyncio.all_tasks() <= before, "the probing ends")

    async def test_last_rejected_call_is_probed(self, breaker: CircuitBreaker, backend: FailingBackend) -> None:
        """A call that always fails does not keep the breaker open: the next probe is the latest rejected call."""
        await fail(breaker, backend, FAILURE_THRESHOLD)
        other = FailingBackend()
        with pytest.raises(CircuitOpenError):
            await breaker.call(other.call)

        await wait_until(lambda: not breaker.is_open, "the other call is probed")
        assert other.calls == 1

    async def test_end_with_task_pool(self, backend: FailingBackend) -> None:
        """The probing ends when its task pool is closed."""
        tasks = TaskPool()
        before = asyncio.all_tasks()
        await fail(CircuitBreaker(tasks.spawn), backend, FAILURE_THRESHOLD)
        await tasks.aclose()

        assert asyncio.all_tasks() == before

    async def test_only_one_probe_runs(self, breaker: CircuitBreaker, backend: FailingBackend, tasks: TaskPool) -> None:
        """A circuit that is closed by an old call and opens again while the probe sleeps is probed by one task."""
        for _ in range(3):
            await fail(breaker, backend, FAILURE_THRESHOLD)
            old_call = FailingBackend().call
            await breaker._attempt(old_call, old_call)
            assert not breaker.is_open
        await fail(breaker, backend, FAILURE_THRESHOLD)

        assert len(tasks) == 1
