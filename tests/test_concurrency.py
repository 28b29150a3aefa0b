"""Background tasks and calls with a deadline: the deadline holds, no task is left, no error goes to the loop's handler."""

import asyncio
import gc

import pytest
import structlog

from gateway.concurrency import PoolClosedError, TaskPool, background_task, wait_for_any


async def fail() -> None:
    raise KeyError("nothing there")


async def test_call_returns_the_result() -> None:
    """A call resolves to the result of its coroutine."""
    assert await TaskPool().call(asyncio.sleep(0, "a result"), timeout=1) == "a result"


async def test_call_raises_the_error() -> None:
    """A call raises the exception of its coroutine."""
    with pytest.raises(KeyError):
        await TaskPool().call(fail(), timeout=1)


async def test_ignored_cancellation_delays_no_caller() -> None:
    """A call that ignores its cancellation still times out. `aclose()` cancels it until it ends."""
    pool = TaskPool()
    before = asyncio.all_tasks()
    cancellations: list[int] = []

    async def ignore_cancellation() -> None:
        while len(cancellations) < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancellations.append(1)

    with pytest.raises(TimeoutError, match="no response within"):
        await pool.call(ignore_cancellation(), timeout=0.01)
    await pool.aclose()

    assert len(cancellations) == 2
    assert asyncio.all_tasks() == before


async def test_library_that_cancels_itself() -> None:
    """A call that a client library cancels raises ConnectionError, as the caller itself is not cancelled."""

    async def cancel_self() -> None:
        raise asyncio.CancelledError

    with pytest.raises(ConnectionError):
        await TaskPool().call(cancel_self(), timeout=1)


async def test_error_after_a_cancelled_wait() -> None:
    """A call that fails in the loop iteration in which its caller is cancelled reports nothing to the loop."""
    loop = asyncio.get_running_loop()
    reported: list[object] = []
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _loop, context: reported.append(context))
    fail_now = loop.create_future()

    async def refuse() -> None:
        await fail_now
        raise ConnectionRefusedError

    call = TaskPool().call(refuse(), timeout=1)
    await asyncio.sleep(0)
    fail_now.set_result(None)
    await asyncio.sleep(0)
    call.cancel()  # the task has failed, and its callback has not run yet
    await asyncio.sleep(0)
    assert call.cancelled()
    gc.collect()
    loop.set_exception_handler(before)

    assert reported == []


async def test_cancelled_caller_cancels_the_call() -> None:
    """Cancelling a task that awaits a call ends the call's own task as well."""
    pool = TaskPool()
    before = asyncio.all_tasks()

    async def wait_for_call() -> None:
        await pool.call(asyncio.Event().wait(), timeout=60)

    caller = asyncio.create_task(wait_for_call())
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait({caller})
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert caller.cancelled()
    assert asyncio.all_tasks() == before


async def test_close_fails_open_calls() -> None:
    """A call that is open when the pool closes raises an error. A cancellation would look like that of the caller."""
    pool = TaskPool()
    call = pool.call(asyncio.Event().wait(), timeout=60)
    await pool.aclose()

    with pytest.raises(ConnectionError):
        await call


async def test_closed_pool_starts_no_call() -> None:
    """A closed pool refuses calls with ConnectionError."""
    pool = TaskPool()
    await pool.aclose()

    with pytest.raises(ConnectionError):
        await pool.call(asyncio.sleep(0), timeout=1)


async def test_closed_pool_starts_no_task() -> None:
    """A closed pool refuses tasks with PoolClosedError, and runs no background task."""
    pool = TaskPool()
    await pool.aclose()

    with pytest.raises(PoolClosedError):
        pool.start(asyncio.sleep(0))
    pool.spawn(asyncio.sleep(0))
    assert len(pool) == 0


async def test_close_lets_short_tasks_end() -> None:
    """A task that ends within the drain timeout is not cancelled."""
    pool = TaskPool()
    ended: list[bool] = []

    async def work() -> None:
        await asyncio.sleep(0.01)
        ended.append(True)

    pool.spawn(work())
    await pool.aclose()

    assert ended


async def test_cancelled_tasks_leave_the_pool() -> None:
    """`cancel()` ends the tasks of the pool, which then accepts new ones."""
    pool = TaskPool()
    pool.start(asyncio.Event().wait())
    await pool.cancel(timeout=1)

    assert len(pool) == 0
    assert await pool.start(asyncio.sleep(0, "a result")) == "a result"


async def test_cancel_waits_no_longer_than_its_timeout() -> None:
    """A task that ignores its cancellation stays in the pool after the timeout of `cancel()`. `aclose()` ends it."""
    pool = TaskPool()
    cancelled = asyncio.Event()

    async def ignore_one_cancellation() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
        await asyncio.Event().wait()

    pool.start(ignore_one_cancellation())
    await asyncio.sleep(0)
    await pool.cancel(timeout=0.01)

    assert cancelled.is_set()
    assert len(pool) == 1
    await pool.aclose()
    assert len(pool) == 0


async def test_background_failure_is_logged() -> None:
    """An error of a background task is logged once, as no caller sees it."""
    pool = TaskPool()

    with structlog.testing.capture_logs() as logs:
        pool.spawn(fail())
        await pool.aclose()

    assert [entry["event"] for entry in logs] == ["background task failed"]


async def test_background_task_fails_the_block() -> None:
    """A background task that fails cancels its block, which raises the error itself and not a group."""
    with pytest.raises(KeyError):
        async with background_task(fail(), name="failing"):
            await asyncio.Event().wait()


async def test_background_task_is_stopped_first() -> None:
    """At the end of the block `stop` is called first, then the task is cancelled, and then its resources are dropped."""
    steps: list[str] = []

    async def ignore_stop() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            steps.append("cancelled")

    async with background_task(
        ignore_stop(),
        name="stubborn",
        stop=lambda: steps.append("stop"),
        stop_timeout=0.01,
        abort=lambda: steps.append("abort"),
    ):
        await asyncio.sleep(0)

    assert steps == ["stop", "abort", "cancelled"]


async def test_wait_for_any_returns_with_the_first() -> None:
    """`wait_for_any` returns when one event is set, and leaves no task that waits for the others."""
    first, second = asyncio.Event(), asyncio.Event()
    before = asyncio.all_tasks()
    asyncio.get_running_loop().call_soon(second.set)
    async with asyncio.timeout(10):
        await wait_for_any(first, second)
    await asyncio.sleep(0)

    assert asyncio.all_tasks() == before


async def test_early_return_fails_the_block() -> None:
    """A background task that returns before the end of its block fails the block: a worker is gone."""
    with pytest.raises(RuntimeError, match="worker ended unexpectedly"):
        async with background_task(asyncio.sleep(0), name="worker"):
            await asyncio.Event().wait()


async def test_self_cancellation_fails_the_block() -> None:
    """A background task that a library cancels fails the block: a worker is gone."""

    async def cancel_self() -> None:
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match="worker cancelled itself"):
        async with background_task(cancel_self(), name="worker"):
            await asyncio.Event().wait()
