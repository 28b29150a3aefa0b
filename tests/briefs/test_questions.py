"""Asking a question: the deadline holds, and whatever becomes of it, nothing is left for the event loop to complain about."""

import asyncio
import gc

import pytest
import structlog

from gateway.briefs.questions import Questions


async def test_an_answer_is_handed_on_and_a_failure_too() -> None:
    questions = Questions()

    async def fail() -> None:
        raise KeyError("nothing there")

    assert await questions.ask(asyncio.sleep(0, "an answer"), within=1) == "an answer"
    with pytest.raises(KeyError):
        await questions.ask(fail(), within=1)


async def test_a_question_that_resists_its_cancellation_is_not_waited_for_but_ended_in_the_end() -> None:
    questions = Questions()
    before = asyncio.all_tasks()
    cancellations: list[int] = []

    async def resist() -> None:
        while len(cancellations) < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancellations.append(1)

    with pytest.raises(TimeoutError, match="no answer within"):
        await questions.ask(resist(), within=0.01)
    await questions.end()

    assert len(cancellations) == 2
    assert asyncio.all_tasks() == before


async def test_a_library_that_cancels_itself_is_a_lost_connection() -> None:
    async def cancel_oneself() -> None:
        raise asyncio.CancelledError

    with pytest.raises(ConnectionError):
        await Questions().ask(cancel_oneself(), within=1)


async def test_a_failure_that_nobody_waits_for_any_more_is_not_reported() -> None:
    """It fails in the very tick in which whoever asked is cancelled: as when the database refuses all at once."""
    loop = asyncio.get_running_loop()
    reported: list[object] = []
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _loop, context: reported.append(context))
    fail = loop.create_future()

    async def refused() -> None:
        await fail
        raise ConnectionRefusedError

    asked = Questions().ask(refused(), within=1)
    await asyncio.sleep(0)
    fail.set_result(None)
    await asyncio.sleep(0)
    asked.cancel()  # it has failed, and its answer has not heard of it
    await asyncio.sleep(0)
    assert asked.cancelled()
    gc.collect()
    loop.set_exception_handler(before)

    assert reported == []


async def test_whoever_is_cancelled_while_it_waits_cancels_the_question() -> None:
    questions = Questions()
    before = asyncio.all_tasks()

    async def ask() -> None:
        await questions.ask(asyncio.Event().wait(), within=60)

    asking = asyncio.create_task(ask())
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait({asking})
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert asking.cancelled()
    assert asyncio.all_tasks() == before


async def test_whoever_waits_when_it_ends_is_told_that_nobody_answers() -> None:
    """As a failure, which it can tell: a cancellation would look like its own."""
    questions = Questions()
    answer = questions.ask(asyncio.Event().wait(), within=60)
    await questions.end()

    with pytest.raises(ConnectionError):
        await answer


async def test_once_it_has_ended_nothing_is_asked_any_more() -> None:
    questions = Questions()
    await questions.end()

    with pytest.raises(ConnectionError):
        await questions.ask(asyncio.sleep(0), within=1)


async def test_what_needs_but_a_moment_is_let_end_by_itself() -> None:
    questions = Questions()
    ended: list[bool] = []

    async def work() -> None:
        await asyncio.sleep(0.01)
        ended.append(True)

    questions.keep(work())
    await questions.end()

    assert ended


async def test_a_mistake_in_the_background_is_reported() -> None:
    questions = Questions()

    async def err() -> None:
        raise KeyError("a mistake")

    with structlog.testing.capture_logs() as logs:
        questions.keep(err())
        await questions.end()

    assert [entry["event"] for entry in logs] == ["background work failed"]
