"""SIGTERM and SIGINT, once and twice, at every phase of the real process: it ends with the right status, in time, in order.

In each case one thing hangs (hanging.py), with all that it has acquired in its hands, so that the signal hits just there.
"""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from signal import SIGINT, SIGTERM, Signals

import httpx
import pytest

from gateway.devstack.stack import Devstack
from gateway.lifecycle import EventType
from tests.end_to_end.conftest import Start
from tests.end_to_end.running import ORDER, RESOURCES, assert_nothing_is_held, assert_problem_in_full, held, until
from tests.faults.recording import Record

PROGRAM = "tests.faults.hanging"

LIMITS = {f"GATEWAY_{name.upper()}__STOP_TIMEOUT": "0.3" for name in RESOURCES} | {"GATEWAY_GRACEFUL_SECONDS": "0.3"}
"""Of a stop that was asked for once. What works with the resources has three seconds, always."""

NO_LIMITS = dict.fromkeys(LIMITS, "50") | {"GATEWAY_SHUTDOWN_TIMEOUT": "60"}
"""Of one that has to be forced: whatever ends it in time, it is none of these."""

STOPS_WITHIN = 10
FORCED_WITHIN = 5
"""Seconds. Half a second is declared, and a busy machine makes more of it."""

KINDS = {kind.value for kind in EventType}

STOPPED, START_FAILED, UNCLEAN, FORCED = 0, 3, 4, 130


class Case:
    """A process in which one thing hangs, and the signals that it gets."""

    def __init__(self, run: Start, servers: Devstack, instance: str, signals: list[Signals]) -> None:
        self.once = len(signals) == 1
        self.fault = signals[0].name if self.once else f"{signals[0].name} twice"
        self._run = run
        self._servers = servers
        self._instance = instance
        self._signals = iter(signals)

    def start(self, *where: str, hangs_until_cancelled: int = 1) -> None:
        limits = LIMITS if self.once else NO_LIMITS
        self.process = self._run("-m", PROGRAM, *where, HANGS_UNTIL_CANCELLED=str(hangs_until_cancelled), **limits)

    async def hangs(self, times: int = 1) -> None:
        """Wait until it hangs: the second time is when it was cancelled, and goes on all the same."""

        async def it_does() -> bool:
            return self.process.output.count('"event": "hanging"') >= times

        await until(it_does, "it hangs", limit=15)

    def send(self) -> None:
        """Send the next signal."""
        self.process.send(next(self._signals))

    async def status(self) -> int:
        """Wait until it has ended, for as long as it may take after the last signal. The servers hold nothing of it then."""
        began = time.monotonic()
        status = await self.process.status()
        assert time.monotonic() - began < (STOPS_WITHIN if self.once else FORCED_WITHIN)
        assert list(self._signals) == []

        async def nothing_is_held() -> bool:
            return not await held(self._servers, self._instance, broker=False)

        await until(nothing_is_held, f"the servers hold nothing of {self._instance}")
        return status

    @property
    def journal(self) -> list[str]:
        """What it has logged of its entries, and of the stack as a whole."""
        lines = [json.loads(line) for line in self.process.output.splitlines() if line.startswith("{")]
        return [" ".join(filter(None, (line["event"], line.get("entry")))) for line in lines if line["event"] in KINDS]


@pytest.fixture(
    params=[
        pytest.param([SIGTERM], id="SIGTERM once"),
        pytest.param([SIGINT, SIGINT], id="SIGINT twice", marks=pytest.mark.long),
        pytest.param([SIGINT], id="SIGINT once", marks=pytest.mark.long),
        pytest.param([SIGTERM, SIGTERM], id="SIGTERM twice", marks=pytest.mark.long),
    ]
)
def case(request: pytest.FixtureRequest, run: Start, servers: Devstack, instance: str) -> Case:
    return Case(run, servers, instance, request.param)


@pytest.fixture(scope="module", autouse=True)
async def nothing_is_held_at_the_end(servers: Devstack) -> AsyncIterator[None]:
    """Ask the broker once: it takes half a second to answer."""
    yield
    await assert_nothing_is_held(servers, f"test-{os.getpid()}-")


def entered(names: list[str]) -> list[str]:
    return [f"{step} {name}" for name in names for step in ("entering", "entered")]


def exited(names: list[str]) -> list[str]:
    return [f"{step} {name}" for name in reversed(names) for step in ("exiting", "exited")]


def aborted(names: list[str]) -> list[str]:
    return [f"aborted {name}" for name in reversed(names)]


async def test_before_the_first_entry_it_ends_with_nothing_entered(case: Case, record: Record) -> None:
    case.start("before", hangs_until_cancelled=1 if case.once else 2)
    await case.hangs()
    case.send()
    if not case.once:
        await case.hangs(2)
        case.send()

    assert await case.status() == (START_FAILED if case.once else FORCED)
    assert case.journal == []
    record("all", "startup", case.fault)


@pytest.mark.parametrize("name", ORDER)
async def test_while_one_is_entered_it_is_given_back_with_all_before_it(case: Case, name: str, record: Record) -> None:
    before = ORDER[: ORDER.index(name)]
    case.start("entering", name, hangs_until_cancelled=1 if case.once else 2)
    await case.hangs()
    case.send()
    if not case.once:
        await case.hangs(2)
        case.send()

    assert await case.status() == (START_FAILED if case.once else FORCED)
    assert case.journal == [
        *entered(before),
        f"entering {name}",
        f"enter cancelled {name}",
        "stopping",
        *(exited(before) if case.once else aborted([*before, name])),
        "stopped",
    ]
    record(name, "startup", case.fault)


@pytest.mark.parametrize("path", ["/hang", "/half"])
async def test_while_it_serves_a_request_in_flight_is_answered_in_full_or_cut_and_all_is_released(
    case: Case, path: str, record: Record
) -> None:
    """Nothing was answered yet, or half: of that nothing can be made but a cut, which nobody takes for the end."""
    case.start("serving")
    async with httpx.AsyncClient(timeout=STOPS_WITHIN) as client:
        request = asyncio.create_task(client.get(await case.process.url() + path))
        await case.hangs()
        case.send()
        if not case.once:
            await case.process.said("asked to stop")
            case.send()
        if path == "/half":
            with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
                await request
        elif case.once:
            assert_problem_in_full(await request, 503)
        else:
            with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
                await request

    assert await case.status() == (STOPPED if case.once else FORCED)
    assert case.journal == [
        *entered(ORDER),
        "started",
        "stopping",
        *([*exited(ORDER), "stopped"] if case.once else aborted(ORDER)),  # forced, nobody waits for the request
    ]
    record("all", "serving", f"{case.fault}, {'a request' if path == '/hang' else 'half an answer'} in flight")


@pytest.mark.parametrize(
    "name",
    # These three take their five seconds the same way as the relay does.
    [pytest.param(name, marks=pytest.mark.long) if name in {"reports", "views", "briefs"} else name for name in ORDER],
)
async def test_while_one_exits_it_is_aborted_and_the_rest_is_released(case: Case, name: str, record: Record) -> None:
    at = ORDER.index(name)
    case.start("exiting", name)
    await case.process.url()
    case.send()
    await case.hangs()
    if not case.once:
        case.send()

    assert await case.status() == (UNCLEAN if case.once else FORCED)
    assert case.journal == [
        *entered(ORDER),
        "started",
        "stopping",
        *exited(ORDER[at + 1 :]),
        f"exiting {name}",
        f"aborted {name}",
        *(exited(ORDER[:at]) if case.once else aborted(ORDER[:at])),
        "stopped",
    ]
    record(name, "teardown", case.fault)
