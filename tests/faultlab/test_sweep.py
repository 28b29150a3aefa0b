"""The sweep: it injects at every point, names what leaks and where, and never hides an error of the run."""

import asyncio
import gc
import os
import queue
import socket
import sys
import threading
import time
import traceback
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import pytest
import uvloop

from faultlab import Call, Cancel, ExpireDeadlines, InjectionPoint, Outcome, Run, run_once, sweep
from faultlab.partition import NetworkPartition
from faultlab.sweep import UnexpectedCancellationError
from tests.support.waiting import TIMEOUT

LOOPS = pytest.mark.parametrize("loop", [asyncio.SelectorEventLoop, uvloop.Loop], ids=["asyncio", "uvloop"])


async def steps(count: int = 1) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@asynccontextmanager
async def correct() -> AsyncGenerator[None]:
    """Three steps to enter, three steps to exit, and a socket that is always closed."""
    with socket.socket():
        await steps(3)
        try:
            yield
        finally:
            await steps(3)


open_sockets: list[socket.socket] = []


@asynccontextmanager
async def without_finally() -> AsyncGenerator[None]:
    """The socket of the second step is closed only if nothing fails."""
    await steps()
    sock = socket.socket()
    open_sockets.append(sock)
    await steps()
    yield
    sock.close()


@asynccontextmanager
async def with_forgotten_task() -> AsyncGenerator[None]:
    task = asyncio.create_task(asyncio.sleep(60), name="forgotten")
    await steps()
    yield
    task.cancel()


@asynccontextmanager
async def swallowing_cancellation() -> AsyncGenerator[None]:
    with suppress(asyncio.CancelledError):
        await steps(3)
    yield


@asynccontextmanager
async def connecting_in_own_task() -> AsyncGenerator[None]:
    """The caller is suspended only once: all steps belong to another task."""
    await asyncio.create_task(steps(4))
    yield


def sweep_startup(make_manager: Callable[[], AbstractAsyncContextManager[None]]) -> list[Outcome]:
    async def start(run: Run) -> None:
        manager = make_manager()
        with run.armed():
            await manager.__aenter__()
        await manager.__aexit__(None, None, None)

    return list(sweep(start))


async def fail() -> None:
    raise ValueError("failed")


class TestInjection:
    def test_correct_manager_has_no_leaks(self) -> None:
        """A cancellation is injected at each loop iteration of the startup, and a correct manager leaks nothing."""
        outcomes = sweep_startup(correct)

        assert [outcome.at for outcome in outcomes] == [1, 2, 3]
        assert [outcome.leaked for outcome in outcomes] == [[], [], []]
        assert all(outcome.cancelled for outcome in outcomes)

    def test_teardown_is_swept(self) -> None:
        """The armed block may be the teardown instead of the startup."""

        async def stop(run: Run) -> None:
            manager = correct()
            await manager.__aenter__()
            with run.armed():
                await manager.__aexit__(None, None, None)

        assert [(outcome.at, outcome.leaked) for outcome in sweep(stop)] == [(1, []), (2, []), (3, [])]
        assert [outcome.at for outcome in sweep(stop, step=2)] == [1, 3]

    def test_repeated_cancellation(self) -> None:
        """`Cancel(repeat=1)` also ends a run that swallows the first cancellation."""

        async def start(run: Run) -> None:
            with run.armed():
                with suppress(asyncio.CancelledError):
                    await steps(2)
                await steps(2)

        assert [not outcome.cancelled for outcome in sweep(start)] == [True, True, False, False]
        assert all(outcome.cancelled for outcome in sweep(start, fault=Cancel(repeat=1)))

    def test_swallowed_cancellation_is_visible(self) -> None:
        """`Outcome.cancelled` is false if the run did not end by the cancellation."""
        assert [not outcome.cancelled for outcome in sweep_startup(swallowing_cancellation)] == [True, True, True]

    @LOOPS
    def test_steps_of_other_tasks_are_points(self, loop: type[asyncio.AbstractEventLoop]) -> None:
        """The steps of tasks that the run starts are injection points, with their locations."""

        async def start(run: Run) -> None:
            manager = connecting_in_own_task()
            with run.armed():
                await manager.__aenter__()
            await manager.__aexit__(None, None, None)

        outcomes = list(sweep(start, point=InjectionPoint.TASK_STEP, loop=loop))

        assert [outcome.location.split()[-1] for outcome in outcomes] == [*["steps"] * 5, "connecting_in_own_task"]
        assert all(outcome.location.startswith("tests/faultlab/test_sweep.py:") for outcome in outcomes)
        assert not any(outcome.leaked or not outcome.cancelled for outcome in outcomes)

    def test_uvloop_has_no_countable_iterations(self) -> None:
        """Loop iterations are points on asyncio's own loops only."""

        async def start(run: Run) -> None:
            del run

        with pytest.raises(TypeError, match="count task steps"):
            next(sweep(start, loop=uvloop.Loop))

    def test_duration_starts_at_the_injection(self) -> None:
        """`Outcome.duration` is the time from the injection to the end of the run."""

        async def start(run: Run) -> None:
            await asyncio.sleep(0.1)  # before the injection
            try:
                with run.armed():
                    await steps()
            finally:
                await asyncio.sleep(0.05)

        (outcome,) = sweep(start)

        assert 0.05 <= outcome.duration < 0.1

    def test_partition_does_not_affect_pipes(self) -> None:
        """A network partition hides what arrives on sockets, but not on pipes."""

        async def read(run: Run) -> None:
            if run.at > 1:
                return
            reader = asyncio.StreamReader()
            read_end, write_end = os.pipe()
            transport, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb")
            )
            with run.armed():
                await steps(2)
                os.write(write_end, b"x")
                async with asyncio.timeout(1):
                    assert await reader.readexactly(1) == b"x"
            os.close(write_end)
            transport.close()

        (outcome,) = sweep(read, fault=NetworkPartition())

        assert (outcome.error, outcome.leaked) == (None, [])


class TestExpiredDeadlines:
    @LOOPS
    @pytest.mark.parametrize("method", ["call_later", "call_at"])
    def test_deadline_expires_at_any_step(self, loop: type[asyncio.AbstractEventLoop], method: str) -> None:
        """A deadline of 60 s expires at the injection of `ExpireDeadlines(61)`."""
        expired: list[int] = []

        async def start(run: Run) -> None:
            with suppress(TimeoutError), run.armed():
                if method == "call_later":
                    await asyncio.wait_for(steps(3), timeout=60)
                else:
                    async with asyncio.timeout(60):
                        await steps(3)
                return
            expired.append(run.at)

        outcomes = list(sweep(start, point=InjectionPoint.TASK_STEP, fault=ExpireDeadlines(61), loop=loop))

        assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)
        assert expired[:2] == [1, 2]  # at the last point it is too late

    @LOOPS
    def test_later_deadline_does_not_expire(self, loop: type[asyncio.AbstractEventLoop]) -> None:
        """A deadline of 60 s does not expire at the injection of `ExpireDeadlines(59)`."""

        async def start(run: Run) -> None:
            with run.armed():
                async with asyncio.timeout(60):
                    await steps(3)

        outcomes = list(sweep(start, point=InjectionPoint.TASK_STEP, fault=ExpireDeadlines(59), loop=loop))

        assert [outcome.error for outcome in outcomes] == [None] * 3

    def test_cancelled_timer_does_not_fire(self) -> None:
        """A timer that was cancelled before the injection is not called, others are called at most once."""

        async def start(run: Run) -> None:
            called: list[bool] = []
            handle = asyncio.get_running_loop().call_later(60, called.append, True)
            with run.armed():
                await steps()
                handle.cancel()
                await steps(3)
            assert called in ([], [True])
            assert not (called and run.at > 2)

        assert [outcome.error for outcome in sweep(start, fault=ExpireDeadlines(61))] == [None] * 4


class TestLeaks:
    def test_open_socket_is_reported_at_its_point(self) -> None:
        """A socket that a cancellation leaves open is in the outcome of that point, and in no other."""
        outcomes = sweep_startup(without_finally)
        for sock in open_sockets:
            sock.close()

        assert [outcome.leaked for outcome in outcomes] == [[], ["socket that is not connected"]]

    def test_running_task_is_reported(self) -> None:
        """A task that still runs is reported with its name and the line at which it is suspended."""
        (outcome,) = sweep_startup(with_forgotten_task)

        assert outcome.leaked[0].startswith("task forgotten, now at asyncio/tasks.py")

    def test_endless_task_does_not_block_the_sweep(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A task that ignores every cancellation is reported once, and the sweep ends."""
        monkeypatch.setattr(sys.modules["faultlab.sweep"], "SETTLE_TIMEOUT", 0.03)
        deadline = time.monotonic() + 5

        async def ignore_cancellation() -> None:
            while time.monotonic() < deadline:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.01)

        async def start(run: Run) -> None:
            with run.armed():
                task = asyncio.create_task(ignore_cancellation(), name="endless")
                await steps()
                del task

        outcomes = list(sweep(start))

        assert time.monotonic() < deadline
        assert [line.partition(",")[0] for outcome in outcomes for line in outcome.leaked] == ["task endless"]

    def test_unawaited_errors_are_reported(self) -> None:
        """Exceptions never retrieved, coroutines never awaited and sockets never closed are in the outcome."""

        async def start(run: Run) -> None:
            with run.armed():
                task = asyncio.create_task(fail())
                await steps()
                del task
                fail()  # type: ignore[unused-coroutine]  # the mistake that the test is about
                socket.socket()
                gc.collect()
                await steps()

        outcome = list(sweep(start))[-1]

        for expected in ("never retrieved (ValueError('failed'))", "was never awaited", "unclosed <socket.socket"):
            assert any(expected in line for line in outcome.leaked), (expected, outcome.leaked)

    @pytest.mark.parametrize("point", InjectionPoint)
    def test_error_referenced_by_cancelled_frames(self, point: InjectionPoint) -> None:
        """An unretrieved exception is reported even if only the frames of the cancelled run refer to it."""

        async def start(run: Run) -> None:
            with run.armed():
                future = asyncio.get_running_loop().create_future()
                future.set_exception(ValueError("failed"))
                await steps(3)
                future.exception()

        outcomes = list(sweep(start, point=point))

        assert ["never retrieved" in "".join(outcome.leaked) for outcome in outcomes][:2] == [True, True]


class TestErrors:
    """An error of the run is either expected, or it ends the sweep: it is never mistaken for an effect of the fault."""

    def test_error_without_injection_is_raised(self) -> None:
        """A run that fails before the fault is injected ends the sweep, even with an expected error."""

        async def start(run: Run) -> None:
            with run.armed():
                await steps()
            if not run.fired:
                raise ValueError("broken")

        with pytest.raises(ValueError, match="broken"):
            list(sweep(start, expected_errors=ValueError))

    @pytest.mark.parametrize(
        "error", [AssertionError("wrong order"), ValueError("bug")], ids=lambda e: type(e).__name__
    )
    def test_unexpected_error_is_raised_at_once(self, error: Exception) -> None:
        """An unexpected error after the injection is raised with its traceback and a note of the point.

        No further run follows. An AssertionError is unexpected even where every Exception is expected.
        """
        runs: list[int] = []

        async def start(run: Run) -> None:
            runs.append(run.at)
            try:
                with run.armed():
                    await steps(3)
            except asyncio.CancelledError:
                if run.at == 2:
                    raise error from None  # the raising line
                raise

        with pytest.raises(type(error)) as caught:
            list(sweep(start, expected_errors=Exception if isinstance(error, AssertionError) else ConnectionError))

        assert caught.value is error
        assert "raise error from None  # the raising line" in "".join(traceback.format_exception(caught.value))
        (note,) = caught.value.__notes__
        assert note.startswith("the fault was injected at point 2, tests/faultlab/test_sweep.py:")
        assert note.endswith(" steps")
        assert runs == [1, 2]

    def test_expected_error_is_the_outcome(self) -> None:
        """An error in `expected_errors` after the injection is `Outcome.error`, and the sweep continues."""

        async def start(run: Run) -> None:
            try:
                with run.armed():
                    await steps(2)
            except asyncio.CancelledError:
                raise ConnectionResetError("by the fault") from None

        outcomes = list(sweep(start, expected_errors=ConnectionError))

        assert [repr(outcome.error) for outcome in outcomes] == ["ConnectionResetError('by the fault')"] * 2
        assert not any(outcome.cancelled for outcome in outcomes)

    @pytest.mark.parametrize(
        "fault", [Call(lambda: None, "nothing"), ExpireDeadlines(1)], ids=lambda fault: type(fault).__name__
    )
    def test_cancellation_by_the_run_itself(self, fault: Call | ExpireDeadlines) -> None:
        """A run that ends with CancelledError, although the fault does not cancel, ends the sweep."""

        async def start(run: Run) -> None:
            with run.armed():
                await steps()
            raise asyncio.CancelledError

        with pytest.raises(UnexpectedCancellationError) as caught:
            list(sweep(start, fault=fault))
        (note,) = caught.value.__notes__
        assert note.startswith("the fault was injected at point 1, ")

    def test_cancellation_before_the_injection(self) -> None:
        """A run that ends with CancelledError before the fault is injected ends the sweep."""

        async def start(run: Run) -> None:
            del run
            raise asyncio.CancelledError

        with pytest.raises(UnexpectedCancellationError):
            list(sweep(start))


class TestFollowUp:
    def test_runs_after_each_injection(self) -> None:
        """`follow_up` is called after each run with an injection, and its leaks are in the outcome."""
        followed: list[int] = []

        async def start(run: Run) -> None:
            with run.armed():
                await steps(2)

        async def follow_up(run: Run) -> None:
            followed.append(run.at)
            await steps()
            open_sockets.append(socket.socket())

        outcomes = list(sweep(start, follow_up=follow_up))
        while open_sockets:
            open_sockets.pop().close()

        assert followed == [outcome.at for outcome in outcomes] == [1, 2]
        assert [outcome.leaked for outcome in outcomes] == [["socket that is not connected"]] * 2

    def test_its_error_is_raised_with_the_point(self) -> None:
        """An error of `follow_up` ends the sweep, with a note of the point after which it was called."""

        async def start(run: Run) -> None:
            with run.armed():
                await steps()

        async def follow_up(_run: Run) -> None:
            await fail()

        with pytest.raises(ValueError, match="failed") as caught:
            list(sweep(start, follow_up=follow_up))
        (note,) = caught.value.__notes__
        assert note.startswith("the fault was injected at point 1, tests/faultlab/test_sweep.py:")


class TestRunOnce:
    @LOOPS
    def test_reports_leaks(self, loop: type[asyncio.AbstractEventLoop]) -> None:
        """`run_once` runs without a fault, in a loop of its own, and reports what is left open."""

        async def leave_open() -> None:
            open_sockets.append(socket.socket())

        outcome = run_once(leave_open, loop=loop)
        open_sockets.pop().close()

        assert (outcome.at, outcome.leaked) == (0, ["socket that is not connected"])
        assert (outcome.error, outcome.cancelled) == (None, False)

    def test_expected_error_is_the_outcome(self) -> None:
        """An error in `expected_errors` is the outcome, although no fault was injected."""
        assert repr(run_once(fail, expected_errors=ValueError).error) == "ValueError('failed')"

    def test_other_errors_are_raised(self) -> None:
        """Any other error is raised, and so is a CancelledError."""

        async def cancel_itself() -> None:
            raise asyncio.CancelledError

        with pytest.raises(ValueError, match="failed"):
            run_once(fail)
        with pytest.raises(UnexpectedCancellationError):
            run_once(cancel_itself)


@pytest.mark.parametrize("point", InjectionPoint)
def test_error_of_the_fault_fails_the_sweep(point: InjectionPoint) -> None:
    """An error of the fault itself is raised with a note, even in the step of a task that swallows it."""

    def fail_to_inject() -> None:
        raise AssertionError("not injected")

    async def swallow_everything() -> None:
        with suppress(BaseException):
            await steps(3)

    async def run(run: Run) -> None:
        with run.armed():
            await asyncio.create_task(swallow_everything())

    with pytest.raises(AssertionError, match="not injected") as caught:
        list(sweep(run, point=point, fault=Call(fail_to_inject, "fails"), expected_errors=Exception))
    assert caught.value.__notes__[0].startswith("the fault was injected at point 1,")


def test_assertion_in_a_group_fails_the_sweep() -> None:
    """An expected error that contains an assertion is raised."""

    async def run(run: Run) -> None:
        with run.armed():
            await steps()
        if run.fired:
            raise ExceptionGroup("several", [ValueError("one"), AssertionError("two")])

    with pytest.raises(ExceptionGroup, match="several"):
        list(sweep(run, fault=Call(lambda: None, "nothing"), expected_errors=ExceptionGroup))


def test_pool_thread_that_ends_late_is_no_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool thread that the end of the loop stops, and that needs a moment to end, is awaited."""
    orders: queue.Queue[None] = queue.Queue()
    is_awaited = threading.Event()
    monkeypatch.setattr(sys.modules["faultlab.sweep"].time, "sleep", lambda _: is_awaited.set())

    def work() -> None:
        orders.get()
        is_awaited.wait(TIMEOUT)

    thread = threading.Thread(target=work, name="AnyIO worker thread")

    async def start_thread() -> None:
        thread.start()
        loop = asyncio.get_running_loop()
        close = loop.close

        def stop_thread_and_close() -> None:
            orders.put(None)
            close()

        monkeypatch.setattr(loop, "close", stop_thread_and_close)
        await steps()

    outcome = run_once(start_thread)
    thread.join()

    assert outcome.leaked == []
