"""Wire faults: a proxy in front of each server breaks a connection at one message, then at the next one ...

Whatever the message and the fault, the startup or the teardown ends in time, every other entry is released in reverse order -
in the journal and on the wire - and nothing leaks.
"""

import asyncio
from collections.abc import Iterable
from itertools import groupby

import pytest

from faultlab.wire import Closed, ClosedBy, WireFault
from gateway.devstack.open_meteo import Faults
from gateway.devstack.weather import WeatherServer
from gateway.lifecycle import EventType, StartTimeoutError
from gateway.lifecycle.entry import ABORT_GRACE
from tests.end_to_end.harness import ZURICH, flush_redis
from tests.faults.harness import FaultLab
from tests.faults.lifespan_run import LifespanRun
from tests.support.entries import BY_NAME, CONNECTED, ENTRIES, WITH_SERVER, entries_before
from tests.support.proxied import ProxiedServers
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("no_broker_leaks", "frozen_objects", "long_timeouts")

BRIEF = f"/v1/places/{ZURICH}/brief"

SHORT_TIMEOUT = 0.2  # of the resource whose connection breaks
LONG_TIMEOUT = 60.0  # of every other resource, and of one that has to survive the fault
RELAY_STOP = 0.75  # the relay may be using the database: it ends within 0.5 s and disconnects within 0.25 s

STARTUP_MESSAGES = [
    *(
        pytest.param(entry, [name], id=f"{entry}-{name}")
        for entry in CONNECTED
        for name in BY_NAME[entry].named_messages
    ),
    # In two halves, as a test that takes longer than a minute looks like one that hangs.
    *(
        pytest.param(entry, range(first, 1000, 2), id=f"{entry}-every {half} message", marks=pytest.mark.long)
        for entry in CONNECTED
        for first, half in enumerate(["even", "odd"])
    ),
]
NOW = "now"  # not at a message, but before the teardown begins
TEARDOWN_MESSAGES = [
    *((entry, BY_NAME[entry].close_message) for entry in WITH_SERVER if BY_NAME[entry].close_message),
    ("rabbitmq", "Connection.CloseOk"),
    *((entry, NOW) for entry in WITH_SERVER),
]

REVERSED_CONNECTIONS = [*reversed(CONNECTED)]  # of a startup; a request connects "http" as well

LONG_FAULTS = {WireFault.TRUNCATE, WireFault.BYTE_AT_A_TIME}  # `make test` injects the others
each_fault = pytest.mark.parametrize(
    "fault",
    [pytest.param(fault, id=str(fault), marks=pytest.mark.long if fault in LONG_FAULTS else ()) for fault in WireFault],
)


@pytest.fixture
def long_timeouts(lab: FaultLab, proxies: ProxiedServers) -> None:
    """Give every resource, and a brief, more time than any claim here allows."""
    del proxies  # the settings lead through them by now
    for entry in WITH_SERVER:
        lab.override(entry, start_timeout=LONG_TIMEOUT, stop_timeout=LONG_TIMEOUT)
    lab.settings = lab.settings.model_copy(update={"startup_timeout": LONG_TIMEOUT, "brief_timeout": LONG_TIMEOUT})


async def test_graceful_close_of_every_connection(lab: FaultLab) -> None:
    """Without a fault, the connections are closed in reverse order, each as its protocol demands."""
    await flush_redis(lab.servers)  # so that the brief connects to the weather upstream
    async with lab.running() as run:
        assert (await run.client.get(BRIEF)).status_code == 200

    assert run.is_clean
    assert closed_in_order(run.wire) == [*REVERSED_CONNECTIONS, "http"]
    assert closed_uncleanly(run.wire) == []
    # PostgreSQL closes the connection after `Terminate`, and asyncpg waits for that.
    assert {closed.proxy: closed.by for closed in run.wire} == {
        entry: ClosedBy.SERVER if entry == "database" else ClosedBy.CLIENT for entry in WITH_SERVER
    }
    assert await lab.leaks() == []


@pytest.mark.entry("rabbitmq")
async def test_rollback_closes_in_reverse_order(lab: FaultLab, proxies: ProxiedServers) -> None:
    """When RabbitMQ does not answer the startup, the connections before it are closed in reverse order."""
    proxies["rabbitmq"].inject(WireFault.BLACK_HOLE, at="Connection.Start")
    lab.override("rabbitmq", start_timeout=SHORT_TIMEOUT)
    run = await lab.start_and_stop()

    assert run.start_error.name == "rabbitmq"
    assert closed_in_order(run.wire) == REVERSED_CONNECTIONS[REVERSED_CONNECTIONS.index("rabbitmq") :]
    assert closed_uncleanly(run.wire, except_for="rabbitmq") == []
    assert await lab.leaks() == []


@pytest.mark.entry("http")
async def test_startup_does_not_call_the_upstream(lab: FaultLab, proxies: ProxiedServers) -> None:
    """The weather upstream is not called before the first request, so that its outage fails no startup."""
    proxies["http"].inject(WireFault.RESET, at=0)
    run = await lab.start_and_stop()

    assert run.is_clean
    assert proxies["http"].fired == []


@each_fault
@pytest.mark.parametrize(("entry", "messages"), STARTUP_MESSAGES)
async def test_start_with_wire_fault(
    lab: FaultLab, proxies: ProxiedServers, entry: str, messages: Iterable[int | str], fault: WireFault
) -> None:
    """Wherever the connection breaks, either the startup fails for that resource and the rest is rolled back gracefully, or it
    reconnects and the teardown is clean for all others. Nothing leaks, and the next run is clean.
    """
    for message in messages:
        timeout, run = await start_with_fault(lab, proxies, entry, message, fault)
        fired = proxies[entry].fired.copy()
        await proxies[entry].recover()
        if not fired:  # the startup has no such message
            assert run.is_clean
            assert isinstance(message, int)
            assert message >= BY_NAME[entry].min_messages, (
                "fewer messages than ever seen: the sweep may have missed some"
            )
            break
        with run:
            assert await lab.leaks() == []
            restart = await restart_without_fault(lab, entry)
            assert restart.is_clean
            assert await lab.leaks() == []
            assert closed_uncleanly(run.wire, except_for=entry) == []
            assert run.unclean <= {entry}
            if run.started:
                assert run.released == [*reversed(ENTRIES)]
                assert run.teardown_errors == recorded_errors(run)
                assert run.teardown_duration < SHORT_TIMEOUT + ABORT_GRACE + RELAY_STOP + margin(restart)
                assert closed_in_order(run.wire, except_for=entry) == all_except(entry, REVERSED_CONNECTIONS)
            else:
                assert fault is not WireFault.BYTE_AT_A_TIME
                assert run.startup_duration < timeout + SHORT_TIMEOUT + ABORT_GRACE + margin(restart)
                assert_rolled_back(run, entry)
        lab.cases[entry] += 1


async def start_with_fault(
    lab: FaultLab, proxies: ProxiedServers, entry: str, message: int | str, fault: WireFault
) -> tuple[float, LifespanRun]:
    """Start with a fault at a message. Return the run, and the start timeout that it had.

    On a busy machine the timeout can expire before the message: then try again with a longer one.
    """
    if message == "AUTH":  # sent by the older protocol only: HELLO has it in the newer one
        url = getattr(lab.settings, entry).url.get_secret_value().partition("?")[0]
        lab.override(entry, url=f"{url}?protocol=2")
    timeout = LONG_TIMEOUT if fault is WireFault.BYTE_AT_A_TIME else SHORT_TIMEOUT
    proxies[entry].inject(fault, at=message)
    while True:
        lab.override(entry, start_timeout=timeout, stop_timeout=SHORT_TIMEOUT)
        run = await lab.start_and_stop(before_stop=proxies[entry].recover)
        if run.started or proxies[entry].fired:
            return timeout, run
        with run:
            assert isinstance(run.start_error.__cause__, StartTimeoutError)
            assert timeout < LONG_TIMEOUT
            assert_rolled_back(run, entry)
            assert await lab.leaks() == []
        timeout *= 2


async def restart_without_fault(lab: FaultLab, entry: str) -> LifespanRun:
    """Run once more, with long timeouts for the resource whose connection was broken."""
    lab.override(entry, start_timeout=LONG_TIMEOUT, stop_timeout=LONG_TIMEOUT)
    return await lab.start_and_stop()


def assert_rolled_back(run: LifespanRun, entry: str) -> None:
    """The startup failed at this entry, and everything before it was released gracefully, in reverse order."""
    assert run.start_error.name == entry
    assert run.start_error.entered == tuple(entries_before(entry))
    assert run.start_error.__cause__ is not None
    assert run.entered == entries_before(entry)
    assert run.exited == [*reversed(run.entered)]
    broken = [entry] if any(closed.proxy == entry for closed in run.wire) else []
    assert closed_in_order(run.wire) == [*broken, *reversed([name for name in run.entered if name in CONNECTED])]
    assert closed_uncleanly(run.wire, except_for=entry) == []


@each_fault
@pytest.mark.parametrize(("entry", "message"), TEARDOWN_MESSAGES)
async def test_stop_with_wire_fault(
    lab: FaultLab, proxies: ProxiedServers, entry: str, message: str, fault: WireFault
) -> None:
    """When a connection breaks at the graceful close or right before the teardown, every other entry exits and every other
    connection is closed gracefully. Nothing leaks, and the next run is clean.
    """
    await flush_redis(lab.servers)
    lab.override(entry, stop_timeout=SHORT_TIMEOUT)
    async with lab.running() as run:
        assert (await run.client.get(BRIEF)).status_code == 200
        if message == NOW:
            proxies[entry].break_now(fault)
        else:
            proxies[entry].inject(fault, at=message)
    fired = proxies[entry].fired.copy()
    await proxies[entry].recover()
    leaks = await lab.leaks()
    restart = await restart_without_fault(lab, entry)

    assert fired
    assert run.released == [*reversed(ENTRIES)]
    assert run.unclean <= {entry}
    assert run.teardown_errors == recorded_errors(run)
    assert run.teardown_duration < stop_timeout(entry) + margin(restart)
    assert closed_in_order(run.wire, except_for=entry) == all_except(entry, [*REVERSED_CONNECTIONS, "http"])
    assert closed_uncleanly(run.wire, except_for=entry) == []
    assert leaks == []
    assert restart.is_clean
    assert await lab.leaks() == []


@pytest.mark.entry("http")
@each_fault
async def test_request_in_flight_with_wire_fault(
    lab: FaultLab, proxies: ProxiedServers, weather: WeatherServer, fault: WireFault
) -> None:
    """When the connection of a call to the upstream breaks, the teardown that follows releases everything and nothing leaks."""
    await flush_redis(lab.servers)
    await weather.set_faults(Faults(latency_s=60))
    lab.override("http", stop_timeout=SHORT_TIMEOUT)
    async with lab.running() as run:
        request = asyncio.create_task(run.client.get(BRIEF))
        await wait_until(
            lambda: any(one.messages == ["request head"] for one in proxies["http"].open_connections),
            "the weather is requested",
        )
        proxies["http"].break_now(fault)
    first_fired = proxies["http"].fired[0]
    await proxies["http"].recover()
    leaks = await lab.leaks()
    restart = await restart_without_fault(lab, "http")

    assert first_fired == "request head"  # aiohttp sends the request again when a connection is lost
    assert request.done()
    assert run.released == [*reversed(ENTRIES)]
    assert run.unclean <= {"http"}
    assert run.teardown_errors == recorded_errors(run)
    assert run.teardown_duration < stop_timeout("http") + margin(restart)
    assert closed_in_order(run.wire, except_for="http") == REVERSED_CONNECTIONS
    assert closed_uncleanly(run.wire, except_for="http") == []
    assert leaks == []
    assert restart.is_clean


def stop_timeout(broken: str) -> float:
    """Return how long a teardown may take whose connection to one server is broken."""
    return SHORT_TIMEOUT + ABORT_GRACE + (RELAY_STOP if broken == "database" else 0)


def margin(clean: LifespanRun) -> float:
    """Return by how much a busy machine may be late: many times what a clean run took on it just now, and 1.5 s at least."""
    return max(1.5, 20 * (clean.startup_duration + clean.teardown_duration))


def recorded_errors(run: LifespanRun) -> list[BaseException | None]:
    """Return the errors of the teardown that the journal has, in order."""
    return [event.error for event in run.journal if event.type in {EventType.EXIT_FAILED, EventType.ABORTED}]


def closed_in_order(wire: list[Closed], except_for: str = "") -> list[str]:
    """Return whose connections were closed, in order; a name comes again if another one was closed in between."""
    return [name for name, _ in groupby(closed.proxy for closed in wire if closed.proxy != except_for)]


def all_except(broken: str, names: list[str]) -> list[str]:
    """Return the names without the one whose connection broke."""
    return [name for name in names if name != broken]


def closed_uncleanly(wire: list[Closed], except_for: str = "") -> list[str]:
    """Return the connections that were reset, or closed without the last message of their protocol."""
    return [
        str(closed)
        for closed in wire
        if closed.proxy != except_for
        and (
            closed.reset
            or closed.by is ClosedBy.LAB
            or closed.last != (BY_NAME[closed.proxy].close_message or closed.last)
        )
    ]
