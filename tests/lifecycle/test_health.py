"""Health checks: all entries are checked concurrently, each with a timeout."""

import asyncio
import gc
import weakref

import pytest

from gateway.lifecycle import LifecycleStack, run_health_checks
from tests.lifecycle.fakes import (
    Pause,
    cancel_self,
    enter,
    enter_worker,
    hang,
    ignore_cancellations,
    noop,
    raise_error,
)


async def test_checks_run_concurrently_with_a_timeout() -> None:
    """Each check succeeds, fails or times out independently. The results are in the order of the entries."""

    async def give_detail() -> str:
        return "12 ms latency"

    async def time_out_itself() -> None:
        raise TimeoutError("no free connection")

    checks = {
        "healthy": noop,
        "detailed": give_detail,
        "broken": raise_error,
        "exhausted": time_out_itself,
        "hanging": hang,
        "cancelled": cancel_self,
        "unchecked": None,
    }
    async with LifecycleStack() as stack:
        for name, check in checks.items():
            await enter(stack, name, check=check)
        results = await run_health_checks(stack.entries, timeout=0.05)

    assert [(result.name, result.ok, result.detail) for result in results] == [
        ("healthy", True, None),
        ("detailed", True, "12 ms latency"),
        ("broken", False, "ValueError: broken"),
        ("exhausted", False, "TimeoutError: no free connection"),
        ("hanging", False, "TimeoutError: no answer within 0.05 s"),
        ("cancelled", False, "RuntimeError: the check cancelled itself"),
        ("unchecked", True, None),
    ]
    slowest = max(results, key=lambda result: result.duration)
    assert slowest.name == "hanging"
    assert 0.05 <= slowest.duration < 5
    assert all(result.ok == (result.error is None) for result in results)
    assert running_checks() == set()


async def test_stuck_check_is_not_awaited(end_of_test: asyncio.Event) -> None:
    """A check that ignores its cancellation is reported as timed out."""
    async with LifecycleStack() as stack:
        await enter(stack, "stuck", check=lambda: ignore_cancellations(until=end_of_test))
        async with asyncio.timeout(2):
            (result,) = await run_health_checks(stack.entries, timeout=0.01)

    assert (result.name, result.ok, result.detail) == ("stuck", False, "TimeoutError: no answer within 0.01 s")
    assert isinstance(result.error, TimeoutError)
    assert 0.01 <= result.duration < 2


async def test_stuck_check_is_referenced_until_it_ends() -> None:
    """A check that ignores its cancellation is not garbage collected while it runs. It is forgotten when it has ended."""
    end_of_check: weakref.ref[asyncio.Event] | None = None

    async def wait_for_unreferenced_event() -> None:
        nonlocal end_of_check
        event = asyncio.Event()
        end_of_check = weakref.ref(event)
        await ignore_cancellations(until=event)

    async with LifecycleStack() as stack:
        await enter(stack, "stuck", check=wait_for_unreferenced_event)
        await run_health_checks(stack.entries, timeout=0.01)
    gc.collect()
    assert end_of_check is not None
    event = end_of_check()
    assert event is not None
    (task,) = running_checks()
    event.set()
    await task

    check = weakref.ref(task)
    del task, event
    await asyncio.sleep(0)  # the current loop iteration refers to the task
    gc.collect()
    assert check() is None


async def test_checks_are_cancelled_with_their_caller() -> None:
    """If the caller of `run_health_checks` is cancelled, so are the checks."""
    checking = Pause()
    ended: list[str] = []

    async def hang_until_cancelled() -> None:
        try:
            await checking()
        finally:
            ended.append("one")

    async with LifecycleStack() as stack:
        await enter(stack, "one", check=hang_until_cancelled)
        caller = asyncio.create_task(run_health_checks(stack.entries, timeout=5))
        await checking.reached.wait()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        await asyncio.sleep(0)

    assert ended == ["one"]


async def test_crashed_entry_is_unhealthy() -> None:
    """An entry that has crashed is unhealthy. Its check is not called."""
    crash = asyncio.Event()
    checked: list[str] = []

    async def check() -> None:
        checked.append("worker")

    async with LifecycleStack() as stack:
        await enter_worker(stack, crash, check=check)
        crash.set()
        await stack.failure
        (result,) = await run_health_checks(stack.entries, timeout=1)

    assert (result.ok, result.detail) == (False, "RuntimeError: the entry has crashed")
    assert checked == []


def running_checks() -> set[asyncio.Task[object]]:
    return {task for task in asyncio.all_tasks() if task.get_name().startswith("check of ")}
