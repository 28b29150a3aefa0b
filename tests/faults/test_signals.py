"""Signals: the real process gets SIGTERM or SIGINT, once or twice, in each phase and at each entry.

In each case one thing hangs (hanging_app.py) with everything that it has acquired, so that the signal arrives right there.
"""

import asyncio
from signal import SIGINT, SIGTERM

import httpx
import pytest

from gateway.process.exit_status import ExitStatus
from tests.end_to_end.conftest import StartProcess
from tests.end_to_end.harness import assert_complete_problem
from tests.faults.harness import FaultLab
from tests.faults.signalled_process import MAX_STOP_DURATION, SignalledProcess
from tests.support.entries import ENTRIES, entries_before

pytestmark = pytest.mark.usefixtures("no_broker_leaks")


@pytest.fixture(
    params=[
        pytest.param([SIGTERM], id="SIGTERM once"),
        pytest.param([SIGINT, SIGINT], id="SIGINT twice", marks=pytest.mark.long),
        pytest.param([SIGINT], id="SIGINT once", marks=pytest.mark.long),
        pytest.param([SIGTERM, SIGTERM], id="SIGTERM twice", marks=pytest.mark.long),
    ]
)
def process(request: pytest.FixtureRequest, run: StartProcess, lab: FaultLab) -> SignalledProcess:
    return SignalledProcess(run, request.param, lab.runs)


QUICK_ENTRIES = {"database", "rabbitmq", "relay"}  # two resources and a worker; a run takes seconds
each_entry = pytest.mark.parametrize(
    "entry", [name if name in QUICK_ENTRIES else pytest.param(name, marks=pytest.mark.long) for name in ENTRIES]
)


def entered(names: list[str]) -> list[str]:
    return [f"{step} {name}" for name in names for step in ("entering", "entered")]


def exited(names: list[str]) -> list[str]:
    return [f"{step} {name}" for name in reversed(names) for step in ("exiting", "exited")]


def aborted(names: list[str]) -> list[str]:
    return [f"aborted {name}" for name in reversed(names)]


async def test_before_the_first_entry(lab: FaultLab, process: SignalledProcess) -> None:
    """A signal before the first entry ends the process; nothing was entered."""
    process.start("before", hangs_until_cancelled=2 if process.forced else 1)
    await process.hangs()
    process.send_signal()
    if process.forced:
        await process.hangs(times=2)
        process.send_signal()
    status = await process.exit_status()

    assert status == (ExitStatus.FORCED if process.forced else ExitStatus.START_FAILED)
    assert process.journal == []
    assert process.stop_duration < MAX_STOP_DURATION
    assert await lab.leaks() == []


@each_entry
async def test_while_an_entry_starts(lab: FaultLab, process: SignalledProcess, entry: str) -> None:
    """A signal cancels the startup, and everything before the entry exits; a second signal aborts everything."""
    process.start("entering", entry, hangs_until_cancelled=2 if process.forced else 1)
    await process.hangs()
    process.send_signal()
    if process.forced:
        await process.hangs(times=2)
        process.send_signal()
    status = await process.exit_status()

    before = entries_before(entry)
    assert status == (ExitStatus.FORCED if process.forced else ExitStatus.START_FAILED)
    assert process.journal == [
        *entered(before),
        f"entering {entry}",
        f"enter cancelled {entry}",
        "stopping",
        *(aborted([*before, entry]) if process.forced else exited(before)),
        "stopped",
    ]
    assert process.stop_duration < MAX_STOP_DURATION
    assert await lab.leaks() == []


@pytest.mark.parametrize("path", ["/hang", "/half"])
async def test_while_a_request_is_in_flight(lab: FaultLab, process: SignalledProcess, path: str) -> None:
    """A signal cancels a request that hangs: without a response so far the client gets a 503, a partial response is cut so
    that it cannot be mistaken for a complete one. After a second signal, no response is sent.
    """
    process.start("serving")
    async with httpx.AsyncClient(timeout=MAX_STOP_DURATION) as client:
        request = asyncio.create_task(client.get(await process.process.url() + path))
        await process.hangs()
        process.send_signal()
        if process.forced:
            await process.process.wait_for_output("shutdown requested")
            process.send_signal()
        if path == "/half":
            with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
                await request
        elif process.forced:
            with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
                await request
        else:
            assert_complete_problem(await request, 503)
    status = await process.exit_status()

    assert status == (ExitStatus.FORCED if process.forced else ExitStatus.OK)
    assert process.journal == [
        *entered(ENTRIES),
        "started",
        "stopping",
        *(aborted(ENTRIES) if process.forced else [*exited(ENTRIES), "stopped"]),  # forced, the process does not wait
    ]
    assert process.stop_duration < MAX_STOP_DURATION
    assert await lab.leaks() == []


@each_entry
async def test_while_an_entry_stops(lab: FaultLab, process: SignalledProcess, entry: str) -> None:
    """An entry that hangs in the teardown is aborted and the rest exits; a second signal aborts the rest."""
    at = ENTRIES.index(entry)
    process.start("exiting", entry)
    await process.process.url()
    process.send_signal()
    await process.hangs()
    if process.forced:
        process.send_signal()
    status = await process.exit_status()

    assert status == (ExitStatus.FORCED if process.forced else ExitStatus.UNCLEAN)
    assert process.journal == [
        *entered(ENTRIES),
        "started",
        "stopping",
        *exited(ENTRIES[at + 1 :]),
        f"exiting {entry}",
        f"aborted {entry}",
        *(aborted(ENTRIES[:at]) if process.forced else exited(ENTRIES[:at])),
        "stopped",
    ]
    assert process.stop_duration < MAX_STOP_DURATION
    assert await lab.leaks() == []
