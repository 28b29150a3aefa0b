"""A run without failures: the entries exit in reverse order."""

import asyncio
from contextlib import AsyncExitStack, suppress

import pytest

from gateway.lifecycle import LifecycleStack, Phase
from tests.lifecycle.fakes import enter, event_sequence, fake_resource


async def test_entries_exit_in_reverse_order() -> None:
    """`enter` returns the value of the context manager. The entries exit in reverse order, one after the other."""
    async with LifecycleStack() as stack:
        values = [await enter(stack, name) for name in ("one", "two", "three")]
        stack.mark_started()

    assert values == ["the one", "the two", "the three"]
    assert event_sequence(stack.journal) == [
        "entering one",
        "entered one",
        "entering two",
        "entered two",
        "entering three",
        "entered three",
        "started",
        "stopping",
        "exiting three",
        "exited three",
        "exiting two",
        "exited two",
        "exiting one",
        "exited one",
        "stopped",
    ]


async def test_inherited_methods_share_the_release_order() -> None:
    """The stack is an `AsyncExitStack`: entries and inherited callbacks are released in one reverse order."""
    released: list[str] = []

    async def release(name: str) -> None:
        released.append(name)

    async with LifecycleStack() as stack:
        assert isinstance(stack, AsyncExitStack)
        await enter(stack, "first", on_exit=lambda: release("first"))
        stack.push_async_callback(release, "second")
        await stack.enter_async_context(fake_resource(on_exit=lambda: release("third")))
        await enter(stack, "fourth", on_exit=lambda: release("fourth"))

    assert released == ["fourth", "third", "second", "first"]


async def test_one_task_enters_and_exits_an_entry() -> None:
    """The owner task of an entry enters it and exits it. It is not the caller's task, and bears the entry's name."""
    tasks: list[asyncio.Task[object]] = []

    async def remember_task() -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)

    async with LifecycleStack() as stack:
        await enter(stack, "one", on_enter=remember_task, on_exit=remember_task)

    assert tasks[0] is tasks[1]
    assert tasks[0] is not asyncio.current_task()
    assert tasks[0].get_name() == "owner of one"


async def test_ready_between_started_and_stopping() -> None:
    """The stack is ready from `mark_started` until `begin_shutdown`."""
    async with LifecycleStack() as stack:
        starting = stack.ready
        stack.mark_started()
        serving = stack.ready
        stack.begin_shutdown()
        draining = stack.ready

    assert (starting, serving, draining, stack.ready) == (False, True, False, False)
    assert stack.phase is Phase.STOPPED


async def test_shutdown_begun_during_startup_is_kept() -> None:
    """`mark_started` does not undo a shutdown that began before it."""
    async with LifecycleStack() as stack:
        stack.begin_shutdown()
        stack.mark_started()
        ready = stack.ready

    assert not ready
    assert event_sequence(stack.journal) == ["stopping", "stopped"]


async def test_clean_exit_calls_no_abort() -> None:
    """`abort` is not called for an entry that exits in time."""
    aborted: list[str] = []
    async with LifecycleStack() as stack:
        await enter(stack, "one", on_exit=lambda: asyncio.sleep(0), abort=lambda: aborted.append("one"))

    assert aborted == []


async def test_enter_rejects_taken_names_and_late_entries() -> None:
    """A name can be entered once. Nothing can be entered after the shutdown has begun."""
    async with LifecycleStack() as stack:
        await enter(stack, "one")
        with pytest.raises(RuntimeError, match="one cannot be entered"):
            await enter(stack, "one")
        stack.begin_shutdown()
        with pytest.raises(RuntimeError, match="two cannot be entered"):
            await enter(stack, "two")
    with pytest.raises(RuntimeError, match="two cannot be entered"):
        await enter(stack, "two")


async def test_inherited_manager_can_suppress_an_error() -> None:
    """A context manager that was entered by an inherited method can suppress an error of the body."""
    async with LifecycleStack() as stack:
        await enter(stack, "one")
        stack.enter_context(suppress(KeyError))
        raise KeyError

    assert event_sequence(stack.journal)[-2:] == ["exited one", "stopped"]


async def test_inherited_callback_receives_the_error() -> None:
    """An exit callback that was registered by an inherited method receives the error of the body."""
    received: list[object] = []

    async def callback(*exc_details: object) -> bool:
        received.extend(exc_details)
        return True

    error = KeyError()
    async with LifecycleStack() as stack:
        stack.push_async_exit(callback)
        raise error

    assert received == [KeyError, error, error.__traceback__]


async def test_pop_all_is_not_supported() -> None:
    """Journal, deadlines and owner tasks belong to one stack: the entries cannot move to another one."""
    async with LifecycleStack() as stack:
        await enter(stack, "one")
        with pytest.raises(
            NotImplementedError, match=r"^a LifecycleStack cannot transfer its entries to another stack$"
        ):
            stack.pop_all()

    assert event_sequence(stack.journal)[-2:] == ["exited one", "stopped"]
