"""The private API of asyncio, concurrent.futures and sys that faultlab relies on.

A Python version that changes it fails here first. The file needs only pytest, so that it also runs on versions for
which the project has no environment.
"""

import asyncio
import gc
import queue
import socket
import sys
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, cast

import pytest

from faultlab import _asyncio_internals as internals
from faultlab.injection_points import suspended_at

LIMIT = 5.0  # far more than anything here takes


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait in a thread without an event loop."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class TestIterations:
    def test_every_iteration_is_intercepted(self) -> None:
        """Every iteration of the loop passes through `_run_once`: exactly one call precedes each step."""
        events: list[str] = []

        async def main() -> None:
            internals.before_each_iteration(asyncio.get_running_loop(), lambda: events.append("iteration"))
            for _ in range(3):
                await asyncio.sleep(0)
                events.append("step")

        asyncio.run(main())

        assert events[:6] == ["iteration", "step"] * 3

    def test_timers_and_sockets_are_intercepted(self) -> None:
        """Timers, sockets and calls from other threads are handled in intercepted iterations as well."""
        counted = 0
        counts: list[int] = []

        def count() -> None:
            nonlocal counted
            counted += 1

        async def main() -> None:
            loop = asyncio.get_running_loop()
            internals.before_each_iteration(loop, count)
            await asyncio.sleep(0.001)
            counts.append(counted)
            left, right = socket.socketpair()
            with left, right:
                left.setblocking(False)
                loop.call_later(0.001, right.send, b"x")
                await loop.sock_recv(left, 1)
            counts.append(counted)
            later = threading.Event()  # the call must not end before this task waits for it
            loop.call_soon(later.set)
            await asyncio.to_thread(later.wait, LIMIT)
            counts.append(counted)

        asyncio.run(main())

        assert 0 < counts[0] < counts[1] < counts[2]

    def test_interceptions_can_be_nested(self) -> None:
        """A second interception calls the first one, once per iteration."""
        events: list[str] = []

        async def main() -> None:
            loop = asyncio.get_running_loop()
            internals.before_each_iteration(loop, lambda: events.append("inner"))
            internals.before_each_iteration(loop, lambda: events.append("outer"))
            await asyncio.sleep(0)

        asyncio.run(main())

        assert events[:2] == ["outer", "inner"]

    def test_loop_without_iterations_is_rejected(self) -> None:
        """A loop that is not asyncio's own raises TypeError."""
        loop = cast("asyncio.AbstractEventLoop", object())
        with pytest.raises(TypeError, match="cannot be counted"):
            internals.before_each_iteration(loop, lambda: None)


class TestSelector:
    def test_filtered_events_do_not_arrive(self) -> None:
        """The loop sees only the selector events that the filter keeps; timers are not affected."""
        received: list[bytes] = []

        async def main() -> None:
            loop = asyncio.get_running_loop()
            left, right = socket.socketpair()
            with left, right:
                loop.add_reader(left, lambda: received.append(left.recv(1)))
                right.send(b"x")
                await asyncio.sleep(0.01)
                internals.filter_selector_events(loop, lambda _events: [])
                right.send(b"y")
                await asyncio.sleep(0.01)
                loop.remove_reader(left)

        asyncio.run(main())

        assert received == [b"x"]

    def test_wakeup_descriptor_is_in_the_events(self) -> None:
        """A call from another thread arrives as an event of the wakeup descriptor."""
        seen: set[int] = set()

        async def main() -> int:
            loop = asyncio.get_running_loop()

            def keep(events: internals.SelectorEvents) -> internals.SelectorEvents:
                seen.update(key.fd for key, _mask in events)
                return events

            internals.filter_selector_events(loop, keep)
            called = asyncio.Event()
            thread = threading.Thread(target=loop.call_soon_threadsafe, args=(called.set,))
            thread.start()
            await asyncio.wait_for(called.wait(), LIMIT)
            thread.join()
            return internals.wakeup_descriptor(loop)

        assert seen == set()
        assert asyncio.run(main()) in seen


class TestLoopErrors:
    @pytest.mark.parametrize("handler_is_set", [False, True])
    def test_errors_are_reported(self, handler_is_set: bool, caplog: pytest.LogCaptureFixture) -> None:
        """The loop reports through `call_exception_handler`; a handler that the app has set is still called."""
        reported: list[dict[str, Any]] = []
        handled: list[dict[str, Any]] = []

        async def main() -> None:
            loop = asyncio.get_running_loop()
            internals.on_loop_error(loop, reported.append)
            if handler_is_set:
                loop.set_exception_handler(lambda _loop, context: handled.append(context))
            loop.create_future().set_exception(ValueError("not retrieved"))
            gc.collect()

        asyncio.run(main())

        assert [repr(context["exception"]) for context in reported] == ["ValueError('not retrieved')"]
        assert "never retrieved" in reported[0]["message"]
        assert handled == (reported if handler_is_set else [])
        assert caplog.records == []


class TestTasks:
    def test_abandoned_task_is_not_awaited(self) -> None:
        """`Runner.close` does not wait for a task that was unregistered, and its destruction is not reported."""
        reported: list[dict[str, Any]] = []
        deadline = time.monotonic() + LIMIT

        async def ignore_cancellation() -> None:
            while time.monotonic() < deadline:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.01)

        async def main() -> None:
            internals.on_loop_error(asyncio.get_running_loop(), reported.append)
            task = asyncio.create_task(ignore_cancellation())
            await asyncio.sleep(0)
            internals.abandon_task(task)
            assert task not in asyncio.all_tasks()
            assert not task.done()

        with asyncio.Runner() as runner:
            runner.run(main())
        gc.collect()

        assert time.monotonic() < deadline
        assert reported == []

    def test_abandoning_a_task_twice_is_harmless(self) -> None:
        """A task may end, or be unregistered again, after it was abandoned."""

        async def main() -> None:
            task = asyncio.create_task(asyncio.sleep(0))
            internals.abandon_task(task)
            internals.abandon_task(task)
            await task

        asyncio.run(main())


class TestThreads:
    def test_default_executor_threads(self) -> None:
        """The threads of `asyncio.to_thread` are those of the loop's `_default_executor`."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            assert internals.default_executor_threads(loop) == frozenset()
            thread = await asyncio.to_thread(threading.current_thread)
            assert internals.default_executor_threads(loop) == {thread}

        asyncio.run(main())
        assert internals.default_executor_threads(None) == frozenset()

    def test_detached_executor_is_not_awaited(self) -> None:
        """`Runner.close` does not wait for a busy thread of an executor that was detached."""
        started, release = threading.Event(), threading.Event()

        def work() -> None:
            started.set()
            release.wait(LIMIT)

        async def main() -> None:
            loop = asyncio.get_running_loop()
            future = loop.run_in_executor(None, work)
            await asyncio.sleep(0)
            wait_until(started.is_set)
            internals.detach_default_executor(loop)
            future.cancel()

        threads = set(threading.enumerate())
        with asyncio.Runner() as runner:
            runner.run(main())
        (busy,) = set(threading.enumerate()) - threads
        assert not release.is_set()
        release.set()
        busy.join()

    def test_idle_pool_thread_waits_for_work(self) -> None:
        """A worker of concurrent.futures is idle in `_worker` itself, and busy in the function that it runs."""
        started, release = threading.Event(), threading.Event()

        def work() -> int:
            started.set()
            release.wait(LIMIT)
            return threading.get_ident()

        def idle() -> bool:
            return internals.waits_for_work(internals.thread_frames().get(ident))

        with ThreadPoolExecutor(1) as executor:
            ident = executor.submit(threading.get_ident).result()
            wait_until(idle)
            future = executor.submit(work)
            wait_until(started.is_set)
            assert not idle()
            release.set()
            assert future.result() == ident

    def test_thread_in_queue_get_waits_for_work(self) -> None:
        """A thread that waits in `queue.Queue.get`, as those of anyio, is idle."""
        work: queue.Queue[None] = queue.Queue()
        thread = threading.Thread(target=work.get)
        thread.start()
        try:
            wait_until(lambda: internals.waits_for_work(internals.thread_frames().get(thread.ident or 0)))
        finally:
            work.put(None)
            thread.join()

    def test_thread_that_is_gone_does_not_wait(self) -> None:
        """A thread without a frame, because it has just ended, is not idle."""
        assert not internals.waits_for_work(None)

    def test_own_frame(self) -> None:
        """The frames of all threads include the current one."""
        frame = internals.thread_frames()[threading.get_ident()]

        assert frame.f_back is sys._getframe()

    def test_caller_outside_a_file(self) -> None:
        """The innermost frame is found without the frames of the given file."""
        here = internals.caller_outside("another file")
        outside = internals.caller_outside(__file__)

        assert here is sys._getframe()
        assert outside is not None
        assert outside.f_code.co_filename != __file__

    def test_thread_starts_are_intercepted(self) -> None:
        """Every thread is started by `Thread.start`, those of an executor as well; afterwards it is restored."""
        original = threading.Thread.start
        started: list[threading.Thread] = []
        with internals.before_each_thread_start(started.append):
            thread = threading.Thread(target=int)
            thread.start()
            thread.join()
            with ThreadPoolExecutor(1) as executor:
                worker = executor.submit(threading.current_thread).result()

        assert started == [thread, worker]
        assert threading.Thread.start is original


class TestSuspendedCoroutines:
    """`suspended_at` looks through objects that do not expose what they wrap, with `gc.get_referents`."""

    @staticmethod
    async def generate() -> AsyncGenerator[int]:
        await asyncio.sleep(0)
        yield 1
        try:
            yield 2
        finally:
            await asyncio.sleep(0)

    async def iterate(self) -> None:
        async for _ in self.generate():
            return

    async def close(self) -> None:
        generator = self.generate()
        await anext(generator)
        await anext(generator)
        await generator.aclose()

    async def inner(self) -> None:
        await asyncio.sleep(0)

    async def await_wrapper(self) -> None:
        class Wrapper:
            def __await__(wrapper) -> Generator[Any, None, None]:  # noqa: N805 - `self` is the test
                return self.inner().__await__()

        await Wrapper()

    @pytest.mark.parametrize(
        ("name", "steps", "innermost"),
        [("iterate", 1, "generate"), ("close", 2, "generate"), ("await_wrapper", 1, "inner")],
    )
    def test_innermost_frame_is_found(self, name: str, steps: int, innermost: str) -> None:
        """The innermost suspended frame of the test is found, inside asynchronous generators and wrappers."""
        method: Callable[[], Awaitable[None]] = getattr(self, name)
        coroutine: Any = method()
        for _ in range(steps):
            coroutine.send(None)
        location = suspended_at(coroutine)
        with suppress(StopIteration):
            while True:
                coroutine.send(None)

        assert location.endswith(f"TestSuspendedCoroutines.{innermost}")
