"""All private API of asyncio, concurrent.futures and sys that the library uses, in one place.

No public API offers these hooks. `tests/faultlab/test_asyncio_internals.py` tests what is relied on here, so that a
Python version that changes it fails there first.
"""

import asyncio
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import thread as _futures
from contextlib import contextmanager
from selectors import SelectorKey
from types import FrameType
from typing import Any, cast

SelectorEvents = list[tuple[SelectorKey, int]]

# A pool thread that waits for work executes one of these: a worker of concurrent.futures, or `queue.Queue.get`, where
# anyio's threads wait (Starlette's `run_in_threadpool`).
_IDLE_CODE = (_futures._worker.__code__, queue.Queue.get.__code__)


def before_each_iteration(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
    """Call `callback` at the start of every iteration of the loop from now on. It cannot be removed.

    Raises:
        TypeError: the loop is not asyncio's own, and its iterations are not visible to Python (uvloop).
    """
    run_iteration: Callable[[], None] | None = getattr(loop, "_run_once", None)
    if run_iteration is None:
        raise TypeError(f"the iterations of {type(loop).__name__} cannot be counted; count task steps instead")

    def iterate() -> None:
        callback()
        run_iteration()

    vars(loop)["_run_once"] = iterate


def filter_selector_events(loop: asyncio.AbstractEventLoop, keep: Callable[[SelectorEvents], SelectorEvents]) -> None:
    """Pass the I/O events of each iteration through `keep` before the loop sees them. It cannot be removed."""
    selector = cast("Any", loop)._selector
    select = selector.select

    def filtered(timeout: float | None = None) -> SelectorEvents:
        return keep(select(timeout))

    vars(selector)["select"] = filtered


def wakeup_descriptor(loop: asyncio.AbstractEventLoop) -> int:
    """Return the descriptor of the socket by which signals and other threads wake the loop."""
    return int(cast("Any", loop)._ssock.fileno())


def on_loop_error(loop: asyncio.AbstractEventLoop, callback: Callable[[dict[str, Any]], object]) -> None:
    """Call `callback` with the context of each error that the loop reports, before the loop's own exception handler.

    The default handler, which logs, is not called any more.
    """
    handle = loop.call_exception_handler

    def report(context: dict[str, Any]) -> None:
        callback(context)
        if loop.get_exception_handler() is not None:
            handle(context)

    vars(loop)["call_exception_handler"] = report


def abandon_task(task: "asyncio.Task[Any]") -> None:
    """Remove the task from `asyncio.all_tasks()`, so that `Runner.close` does not wait for it. It goes on running.

    Its destruction while pending is not reported to the loop.
    """
    cast("Any", task)._log_destroy_pending = False
    asyncio.tasks._unregister_task(task)


def default_executor_threads(loop: asyncio.AbstractEventLoop | None) -> frozenset[threading.Thread]:
    """Return the threads of the loop's default executor (`asyncio.to_thread`); none if it has no executor yet."""
    return frozenset(getattr(getattr(loop, "_default_executor", None), "_threads", ()))


def detach_default_executor(loop: asyncio.AbstractEventLoop) -> None:
    """Shut the loop's default executor down without waiting. `Runner.close` does not wait for its threads then."""
    executor = getattr(loop, "_default_executor", None)
    if executor is not None:
        executor.shutdown(wait=False, cancel_futures=True)
        vars(loop)["_default_executor"] = None


def thread_frames() -> dict[int, FrameType]:
    """Return the current frame of every thread, by thread identifier."""
    return sys._current_frames()


def waits_for_work(frame: FrameType | None) -> bool:
    """Return whether this is the current frame of a pool thread that is idle."""
    while frame is not None and frame.f_code is threading.Condition.wait.__code__:
        frame = frame.f_back
    return frame is not None and frame.f_code in _IDLE_CODE


def caller_outside(filename: str) -> FrameType | None:
    """Return the innermost frame of the current thread that is neither in this file nor in `filename`."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_filename in (__file__, filename):
        frame = frame.f_back
    return frame


@contextmanager
def before_each_thread_start(callback: Callable[[threading.Thread], object]) -> Iterator[None]:
    """Call `callback` with each thread that is started inside the block. Audit events for this exist from 3.12 on."""
    start = threading.Thread.start

    def call_and_start(thread: threading.Thread) -> None:
        callback(thread)
        start(thread)

    threading.Thread.start = call_and_start  # type: ignore[assignment, method-assign]  # the purpose of this function
    try:
        yield
    finally:
        threading.Thread.start = start  # type: ignore[method-assign]  # the original
