"""Server outages: a server stops answering, is killed or is restarted, during the startup and during the teardown."""

import asyncio
from contextlib import AsyncExitStack, ExitStack

import pytest

from gateway.lifecycle import StartError, StartTimeoutError, StopTimeoutError
from gateway.lifecycle.entry import ABORT_GRACE
from tests.end_to_end.harness import ZURICH
from tests.faults.harness import FaultLab
from tests.support.entries import BY_NAME, CONNECTED, entries_before
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_broker_leaks")

SHORT_TIMEOUT = 0.5
LONG_TIMEOUT = 60.0  # longer than any restart of a server
MARGIN = 2.2  # with the short timeout less than the other entries' timeouts of 3 s, more than the 1 s for which the views wait for RabbitMQ

each_server = pytest.mark.parametrize("entry", CONNECTED)
SLOW_SERVERS = {"rabbitmq"}  # a start takes many seconds, and a core
each_quick_server = pytest.mark.parametrize(
    "entry", [pytest.param(name, marks=pytest.mark.long) if name in SLOW_SERVERS else name for name in CONNECTED]
)


@each_server
async def test_paused_server_fails_the_startup(lab: FaultLab, entry: str) -> None:
    """A server that does not answer costs its start timeout; everything before it is released."""
    lab.override(entry, start_timeout=SHORT_TIMEOUT, stop_timeout=SHORT_TIMEOUT)
    with lab.server(entry).suspended():
        run = await lab.start_and_stop()

    assert run.start_error.name == entry
    assert isinstance(run.start_error.__cause__, StartTimeoutError)
    assert run.startup_duration < SHORT_TIMEOUT + SHORT_TIMEOUT + ABORT_GRACE + MARGIN
    assert run.entered == entries_before(entry)
    assert run.exited == [*reversed(run.entered)]
    assert await lab.leaks() == []


@each_server
async def test_start_after_the_server_was_paused(lab: FaultLab, entry: str) -> None:
    """As soon as the server answers again, a startup succeeds."""
    with lab.server(entry).suspended():
        lab.override(entry, start_timeout=SHORT_TIMEOUT)
        failed = await lab.start_and_stop()
    lab.override(entry, start_timeout=LONG_TIMEOUT)
    run = await lab.start_and_stop()

    assert isinstance(failed.error, StartError)
    assert run.is_clean
    assert await lab.leaks() == []


@each_quick_server
async def test_server_killed_while_connecting(lab: FaultLab, entry: str) -> None:
    """A startup that connects to a server which is killed waits until the server is back."""
    lab.override(entry, start_timeout=LONG_TIMEOUT)
    lab.settings = lab.settings.model_copy(update={"startup_timeout": LONG_TIMEOUT})
    async with asyncio.TaskGroup() as group, AsyncExitStack() as outage:
        outage.enter_context(lab.server(entry).suspended())
        starting = group.create_task(lab.start_and_stop())
        await wait_until(lambda: lab.is_entering(entry), f"the startup enters {entry}")
        await asyncio.wait({starting}, timeout=0.3)
        assert not starting.done()
        await outage.enter_async_context(lab.server(entry).killed())
    run = await starting

    assert run.is_clean
    assert await lab.leaks() == []


@each_server
async def test_start_cancelled_while_server_is_paused(lab: FaultLab, entry: str) -> None:
    """A startup that waits for a server can be cancelled; everything before it is released."""
    with lab.server(entry).suspended():
        starting = asyncio.create_task(lab.start_and_stop())
        await wait_until(lambda: lab.is_entering(entry), f"the startup enters {entry}")
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
    (run,) = lab.runs

    assert run.outcome_of(entry) == "enter cancelled"
    assert run.entered == entries_before(entry)
    assert run.exited == [*reversed(run.entered)]
    assert await lab.leaks() == []


@pytest.mark.parametrize(
    ("entry", "outcome"),  # a server whose protocol has no last message, such as Redis, is left without waiting for it
    [(entry, "aborted" if BY_NAME[entry].close_message else "exited") for entry in CONNECTED],
)
async def test_paused_server_delays_only_its_own_stop(lab: FaultLab, entry: str, outcome: str) -> None:
    """A server that stops answering costs its own stop timeout at most; every other entry exits normally."""
    lab.override(entry, stop_timeout=SHORT_TIMEOUT)
    with ExitStack() as outage:  # ends after the teardown
        async with lab.running() as run:
            await run.services.briefs.get(ZURICH)
            outage.enter_context(lab.server(entry).suspended())

    assert run.released == [*reversed(run.entered)]
    assert run.outcome_of(entry) == outcome
    assert run.outcomes_except(entry) == {"exited"}
    assert [type(error) for error in run.teardown_errors] == ([StopTimeoutError] if outcome == "aborted" else [])
    assert run.teardown_duration < SHORT_TIMEOUT + ABORT_GRACE + MARGIN
    assert await lab.leaks() == []


@each_server
async def test_stop_after_the_server_was_killed(lab: FaultLab, entry: str) -> None:
    """With a server that was killed, the teardown is quick, and every other entry exits normally."""
    async with AsyncExitStack() as outage, lab.running() as run:
        await run.services.briefs.get(ZURICH)
        await outage.enter_async_context(lab.server(entry).killed())

    assert run.error is None
    assert run.released == [*reversed(run.entered)]
    assert run.outcomes_except(entry) == {"exited"}
    assert run.teardown_duration < MARGIN
    assert await lab.leaks() == []


@each_quick_server
async def test_stop_after_the_server_was_restarted(lab: FaultLab, entry: str) -> None:
    """With a server that was restarted while the gateway served, the teardown is clean."""
    async with lab.running() as run:
        await run.services.briefs.get(ZURICH)
        await lab.server(entry).restart()

    assert run.error is None
    assert run.released == [*reversed(run.entered)]
    assert run.outcomes_except(entry) == {"exited"}
    assert await lab.leaks() == []
