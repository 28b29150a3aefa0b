"""The lab itself: it names what is left behind and where, and names nothing where nothing is."""

import asyncio
import gc
import os
import socket
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import pytest
import uvloop

from faultlab import Cancel, ExpireDeadlines, InjectionPoint, Outcome, Run, sweep
from faultlab.partition import NetworkPartition


async def step(times: int = 1) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


@asynccontextmanager
async def tidy() -> AsyncGenerator[None]:
    """Three steps in, three steps out, and a socket in between that is closed whatever happens."""
    with socket.socket():
        await step(3)
        try:
            yield
        finally:
            await step(3)


@asynccontextmanager
async def without_finally() -> AsyncGenerator[None]:
    """What it opens in the second step is closed only if nothing goes wrong."""
    await step()
    sock = socket.socket()
    left_open.append(sock)
    await step()
    yield
    sock.close()


left_open: list[socket.socket] = []


@asynccontextmanager
async def with_a_forgotten_task() -> AsyncGenerator[None]:
    task = asyncio.create_task(asyncio.sleep(60), name="forgotten")
    await step()
    yield
    task.cancel()


@asynccontextmanager
async def that_swallows() -> AsyncGenerator[None]:
    with suppress(asyncio.CancelledError):
        await step(3)
    yield


def startups(manager: type[AbstractAsyncContextManager[None]] | object) -> list[Outcome]:
    async def start(case: Run) -> None:
        it = manager()  # type: ignore[operator]
        with case.armed():
            await it.__aenter__()
        await it.__aexit__(None, None, None)

    return list(sweep(start))


def test_a_tidy_resource_leaves_nothing_at_any_tick() -> None:
    outcomes = startups(tidy)

    assert [outcome.at for outcome in outcomes] == [1, 2, 3]
    assert [outcome.leaked for outcome in outcomes] == [[], [], []]
    assert all(outcome.cancelled for outcome in outcomes)


def test_a_socket_that_is_left_open_is_named_at_its_tick() -> None:
    outcomes = startups(without_finally)
    for sock in left_open:
        sock.close()

    assert [outcome.leaked for outcome in outcomes] == [[], ["socket that is not connected"]]


def test_a_cancellation_may_be_repeated() -> None:
    """What swallows one cancellation does not swallow the next."""

    async def start(case: Run) -> None:
        with case.armed():
            with suppress(asyncio.CancelledError):
                await step(2)
            await step(2)

    assert [not outcome.cancelled for outcome in sweep(start)] == [True, True, False, False]
    assert all(outcome.cancelled for outcome in sweep(start, fault=Cancel(repeat=1)))


def test_a_task_that_is_left_running_is_named() -> None:
    (outcome,) = startups(with_a_forgotten_task)

    assert outcome.leaked[0].startswith("task forgotten, now at asyncio/tasks.py")


def test_a_cancellation_that_does_not_arrive_is_told() -> None:
    assert [not outcome.cancelled for outcome in startups(that_swallows)] == [True, True, True]


def test_a_teardown_is_swept_as_well() -> None:
    async def stop(case: Run) -> None:
        it = tidy()
        await it.__aenter__()
        with case.armed():
            await it.__aexit__(None, None, None)

    assert [(outcome.at, outcome.leaked) for outcome in sweep(stop)] == [(1, []), (2, []), (3, [])]


@asynccontextmanager
async def that_connects_in_a_task_of_its_own() -> AsyncGenerator[None]:
    """The caller has one suspension only: all the steps are another task's."""
    await asyncio.create_task(step(4))
    yield


LOOPS = pytest.mark.parametrize("loop", [asyncio.SelectorEventLoop, uvloop.Loop], ids=["asyncio", "uvloop"])


@LOOPS
def test_the_steps_of_tasks_that_are_started_count_too(loop: type[asyncio.AbstractEventLoop]) -> None:
    async def start(case: Run) -> None:
        it = that_connects_in_a_task_of_its_own()
        with case.armed():
            await it.__aenter__()
        await it.__aexit__(None, None, None)

    outcomes = list(sweep(start, point=InjectionPoint.TASK_STEP, loop=loop))

    assert [outcome.location.split()[-1] for outcome in outcomes] == [
        *["step"] * 5,
        "that_connects_in_a_task_of_its_own",
    ]
    assert all(outcome.location.startswith("tests/faultlab/test_sweep.py:") for outcome in outcomes)
    assert not any(outcome.leaked or not outcome.cancelled for outcome in outcomes)


@LOOPS
@pytest.mark.parametrize("method", ["later", "at"])
def test_a_deadline_can_expire_at_any_step(loop: type[asyncio.AbstractEventLoop], method: str) -> None:
    expired: list[int] = []

    async def start(case: Run) -> None:
        with suppress(TimeoutError), case.armed():
            if method == "later":
                await asyncio.wait_for(step(3), timeout=60)
            else:
                async with asyncio.timeout(60):
                    await step(3)
            return
        expired.append(case.at)

    outcomes = list(sweep(start, point=InjectionPoint.TASK_STEP, fault=ExpireDeadlines(61), loop=loop))

    assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)
    assert expired[:2] == [1, 2]  # in the last one it is too late


@LOOPS
def test_what_is_farther_away_is_not_leapt_over(loop: type[asyncio.AbstractEventLoop]) -> None:
    async def start(case: Run) -> None:
        with case.armed():
            async with asyncio.timeout(60):
                await step(3)

    assert [
        outcome.error for outcome in sweep(start, point=InjectionPoint.TASK_STEP, fault=ExpireDeadlines(59), loop=loop)
    ] == [None] * 3


def test_a_deadline_that_was_called_off_does_not_expire() -> None:
    async def start(case: Run) -> None:
        called: list[bool] = []
        handle = asyncio.get_running_loop().call_later(60, called.append, True)
        with case.armed():
            await step()
            handle.cancel()
            await step(3)
        assert called in ([], [True])
        assert not (called and case.at > 2)

    assert [outcome.error for outcome in sweep(start, fault=ExpireDeadlines(61))] == [None] * 4


def test_ticks_are_asyncios() -> None:
    async def start(case: Run) -> None:
        del case

    with pytest.raises(TypeError, match="count steps"):
        next(sweep(start, loop=uvloop.Loop))


async def fail() -> None:
    raise ValueError("nobody asked")


def test_what_nobody_waits_for_is_told() -> None:
    async def complain(case: Run) -> None:
        with case.armed():
            task = asyncio.create_task(fail())
            await step()
            del task
            fail()  # type: ignore[unused-coroutine]  # that is the mistake
            socket.socket()
            gc.collect()
            await step()

    outcome = list(sweep(complain))[-1]

    for complaint in ("never retrieved (ValueError('nobody asked'))", "was never awaited", "unclosed <socket.socket"):
        assert any(complaint in line for line in outcome.leaked), (complaint, outcome.leaked)


@pytest.mark.parametrize("point", InjectionPoint)
def test_an_error_that_only_the_cancelled_frames_hold_is_told(point: InjectionPoint) -> None:
    async def run(case: Run) -> None:
        with case.armed():
            unheard = asyncio.get_running_loop().create_future()
            unheard.set_exception(ValueError("nobody asked"))
            await step(3)
            unheard.exception()

    outcomes = list(sweep(run, point=point))

    assert ["never retrieved" in "".join(outcome.leaked) for outcome in outcomes][:2] == [True, True]


def test_a_run_that_fails_by_itself_fails_the_sweep() -> None:
    async def broken(case: Run) -> None:
        with case.armed():
            await step()
        if not case.fired:
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        list(sweep(broken))


def test_what_follows_runs_at_once_after_each_strike_and_what_it_leaves_is_told() -> None:
    followed: list[int] = []

    async def run(case: Run) -> None:
        with case.armed():
            await step(2)

    async def follow(case: Run) -> None:
        followed.append(case.at)
        await step()
        left_open.append(socket.socket())

    outcomes = list(sweep(run, follow_up=follow))
    while left_open:
        left_open.pop().close()

    assert followed == [outcome.at for outcome in outcomes] == [1, 2]
    assert [outcome.leaked for outcome in outcomes] == [["socket that is not connected"]] * 2


def test_a_follower_that_fails_fails_the_sweep_and_says_after_which_point() -> None:
    async def run(case: Run) -> None:
        with case.armed():
            await step()

    async def follow(_case: Run) -> None:
        await fail()

    with pytest.raises(ValueError, match="nobody asked") as caught:
        list(sweep(run, follow_up=follow))
    (note,) = caught.value.__notes__
    assert note.startswith("the fault was injected at point 1, tests/faultlab/test_sweep.py:")


def test_how_long_a_run_took_after_the_strike_is_told() -> None:
    async def run(case: Run) -> None:
        await asyncio.sleep(0.1)  # which does not count
        try:
            with case.armed():
                await step()
        finally:
            await asyncio.sleep(0.05)

    (outcome,) = sweep(run)

    assert 0.05 <= outcome.duration < 0.1


def test_a_task_that_never_ends_is_named_and_does_not_keep_the_sweep_from_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.modules["faultlab.sweep"], "SETTLE_TIMEOUT", 0.03)
    until = time.monotonic() + 5

    async def go_on() -> None:
        while time.monotonic() < until:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    async def leave(case: Run) -> None:
        with case.armed():
            task = asyncio.create_task(go_on(), name="unending")
            await step()
            del task

    outcomes = list(sweep(leave))

    assert time.monotonic() < until
    assert [line.partition(",")[0] for outcome in outcomes for line in outcome.leaked] == ["task unending"]


def test_silent_servers_do_not_silence_a_pipe() -> None:
    async def read(case: Run) -> None:
        if case.at > 1:
            return
        reader = asyncio.StreamReader()
        out, into = os.pipe()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(out, "rb")
        )
        with case.armed():
            await step(2)
            os.write(into, b"x")
            async with asyncio.timeout(1):
                assert await reader.readexactly(1) == b"x"
        os.close(into)
        transport.close()

    (outcome,) = sweep(read, fault=NetworkPartition())

    assert (outcome.error, outcome.leaked) == (None, [])
