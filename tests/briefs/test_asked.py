"""Answers that are waited for until a deadline."""

import asyncio
import time

import pytest

from gateway.briefs.asked import Asked
from tests.support.waiting import TIMEOUT


async def test_whoever_waits_has_the_answer_as_soon_as_it_is_there() -> None:
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    asked = Asked(answer, time.monotonic())
    asyncio.get_running_loop().call_soon(answer.set_result, "yes")

    async with asyncio.timeout(TIMEOUT):
        assert await asked.until(time.monotonic() + 60) == "yes"
    assert asked.has_come


async def test_an_answer_that_comes_late_can_still_be_had() -> None:
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    asked = Asked(answer, time.monotonic())
    with pytest.raises(TimeoutError):
        await asked.until(time.monotonic() + 0.01)
    assert not answer.cancelled()

    answer.set_result("after all")
    assert await asked.until(0) == "after all"


async def test_a_failure_is_raised_where_it_is_awaited() -> None:
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    asked = Asked(answer, time.monotonic())
    asyncio.get_running_loop().call_soon(answer.set_exception, ZeroDivisionError())

    with pytest.raises(ZeroDivisionError):
        await asked.until(time.monotonic() + 5)
    assert not asked.has_come


async def test_whoever_answered_is_stopped() -> None:
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    asked = Asked(answer, time.monotonic())
    asyncio.get_running_loop().call_soon(answer.cancel)

    with pytest.raises(ConnectionError):
        await asked.until(time.monotonic() + 5)


async def test_for_whoever_still_waits_when_it_is_given_up_its_time_is_up() -> None:
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    asked = Asked(answer, time.monotonic())
    asyncio.get_running_loop().call_soon(asked.give_up)

    async with asyncio.timeout(TIMEOUT):
        with pytest.raises(TimeoutError, match="within its time"):
            await asked.until(time.monotonic() + 60)
    assert answer.cancelled()


async def test_what_has_come_is_not_lost_when_it_is_given_up() -> None:
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    asked = Asked(answer, time.monotonic())
    answer.set_result("yes")
    asked.give_up()

    assert await asked.until(0) == asked.answer == "yes"


async def test_whoever_waits_can_be_cancelled_and_the_answer_is_left_as_it_is() -> None:
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    asked = Asked(answer, time.monotonic())
    waiting = asyncio.create_task(asked.until(time.monotonic() + 60))
    await asyncio.sleep(0)

    waiting.cancel()
    await asyncio.wait({waiting}, timeout=TIMEOUT)

    assert waiting.cancelled()
    assert not answer.done()


async def test_several_may_wait_each_for_as_long_as_it_likes() -> None:
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    asked = Asked(answer, time.monotonic())
    impatient = asyncio.create_task(asked.until(time.monotonic() + 0.01))
    patient = asyncio.create_task(asked.until(time.monotonic() + 60))

    await asyncio.wait({impatient}, timeout=TIMEOUT)
    assert isinstance(impatient.exception(), TimeoutError)
    answer.set_result("yes")
    async with asyncio.timeout(TIMEOUT):
        assert await patient == "yes"


async def test_it_says_how_long_the_answer_took_and_not_how_long_ago_that_was() -> None:
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    asked = Asked(answer, time.monotonic())
    answer.set_result("at once")
    await asked.until(0)
    await asyncio.sleep(0)  # it takes the time when the loop tells it

    took = asked.took
    assert asked.took == took
