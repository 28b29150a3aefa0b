"""The lab itself: it names what is left behind and where, and names nothing where nothing is."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

from faultlab import Case, Outcome, cancel_at_every_tick


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
    async def start(case: Case) -> None:
        it = manager()  # type: ignore[operator]
        with case.armed():
            await it.__aenter__()
        await it.__aexit__(None, None, None)

    return cancel_at_every_tick(start)


def test_a_tidy_resource_leaves_nothing_at_any_tick() -> None:
    outcomes = startups(tidy)

    assert [outcome.at for outcome in outcomes] == [1, 2, 3]
    assert [outcome.left for outcome in outcomes] == [[], [], []]
    assert not any(outcome.swallowed for outcome in outcomes)


def test_a_socket_that_is_left_open_is_named_at_its_tick() -> None:
    outcomes = startups(without_finally)
    for sock in left_open:
        sock.close()

    assert [outcome.left for outcome in outcomes] == [[], ["descriptor socket"]]


def test_a_cancellation_may_be_repeated() -> None:
    """What swallows one cancellation does not swallow the next."""

    async def start(case: Case) -> None:
        with case.armed():
            with suppress(asyncio.CancelledError):
                await step(2)
            await step(2)

    assert [outcome.swallowed for outcome in cancel_at_every_tick(start)] == [True, True, False, False]
    assert not any(outcome.swallowed for outcome in cancel_at_every_tick(start, again=1))


def test_a_task_that_is_left_running_is_named() -> None:
    (outcome,) = startups(with_a_forgotten_task)

    assert outcome.left[0].startswith("task forgotten: <coroutine object sleep")


def test_a_cancellation_that_does_not_arrive_is_told() -> None:
    assert [outcome.swallowed for outcome in startups(that_swallows)] == [True, True, True]


def test_a_teardown_is_swept_as_well() -> None:
    async def stop(case: Case) -> None:
        it = tidy()
        await it.__aenter__()
        with case.armed():
            await it.__aexit__(None, None, None)

    assert [(outcome.at, outcome.left) for outcome in cancel_at_every_tick(stop)] == [(1, []), (2, []), (3, [])]
