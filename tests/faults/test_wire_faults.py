"""Every wire message: a proxy in front of each server breaks the conversation at one message, then at the next one ...

Whatever the message and the fault: the start or the stop ends in time, everything else is released in reverse - in the journal
and on the wire - and nothing is held any more, neither by this process nor by a server.
"""

import asyncio
import gc
from collections.abc import AsyncGenerator
from itertools import count, groupby

import pytest

from faultlab.wire import Closed, ClosedBy, WireFault
from gateway.devstack.open_meteo import Faults
from gateway.devstack.stack import Devstack
from gateway.devstack.weather import Weather
from gateway.lifecycle import StartError, StartTimeoutError, TeardownError
from gateway.lifecycle.entry import ABORT_GRACE
from gateway.lifecycle.journal import EventType, Journal
from tests.end_to_end.running import ORDER, ZURICH, Running, until
from tests.faults.recording import Record
from tests.faults.wired import PATIENT, PROTOCOLS, Life, Wired, wired_to

DEADLINE = 0.2
"""Seconds for the start, and for the stop, of the resource whose wire is broken."""

SLACK = 1.5
"""Seconds by which a busy machine may be late."""

GIVING_BACK = DEADLINE + ABORT_GRACE + SLACK
"""The longest it may take to release everything: the deadline of what is broken, and to abort it at last."""

RELAYING = 0.75
"""Seconds more when it is the database: the relay may be at work in it. It gives that half a second to end, and a quarter to
say goodbye."""

GOODBYES = {"database": "Terminate", "rabbitmq": "Connection.Close"}
"""What a client says before it leaves. Redis and HTTP know no goodbye: there, the last request was answered."""

NAMED = [
    *(("database", message) for message in ("Startup", "AuthenticationSASL", "ReadyForQuery", "Query")),
    *(("redis", message) for message in ("HELLO", "AUTH", "PING")),
    *(
        ("rabbitmq", message)
        for message in ("Connection.Start", "Connection.Tune", "Connection.Open", "Channel.Open", "Confirm.Select")
    ),
]
"""The messages that each have a name that people know; the sweep over all of them takes minutes."""

FEWEST = {"database": 60, "redis": 10, "rabbitmq": 13}
"""Messages of a startup. It was 106, 10 and 13 at first; less means that the sweep misses something. (Most of PostgreSQL's are
asyncpg asking for types.)"""


@pytest.fixture
async def wired(servers: Devstack) -> AsyncGenerator[Wired]:
    async with wired_to(servers) as it:
        yield it


@pytest.fixture(scope="module", autouse=True)
async def frozen(servers: Devstack) -> AsyncGenerator[None]:
    """What is there before is no leak of any life: to look at it again after each would take longer than the life."""
    async with wired_to(servers) as it:
        await it.live(meanwhile=serve)  # imports what is imported late
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


async def serve(gateway: Running) -> None:
    assert (await gateway.client.get(f"/v1/places/{ZURICH}/brief")).status_code == 200


# A life without faults, and one that has to be rolled back.


async def test_connections_are_closed_in_reverse_each_with_its_goodbye(wired: Wired, record: Record) -> None:
    life = await wired.live(meanwhile=serve)

    assert life.error is None
    assert closings(life.wire) == ["rabbitmq", "redis", "database", "http"]
    assert impolite(life.wire) == []
    assert life.held == []
    # PostgreSQL hangs up when it was told goodbye, and asyncpg waits for that.
    first = {record.proxy: record.by for record in life.wire}
    assert first == {
        "rabbitmq": ClosedBy.CLIENT,
        "redis": ClosedBy.CLIENT,
        "database": ClosedBy.SERVER,
        "http": ClosedBy.CLIENT,
    }
    record("all", "teardown", "none", journal=life.journal, wire=list(map(str, life.wire)))


async def test_when_rabbitmq_does_not_start_redis_is_closed_before_the_database(wired: Wired, record: Record) -> None:
    wired.proxies["rabbitmq"].inject(WireFault.BLACK_HOLE, at="Connection.Start")
    life = await wired.live(broken="rabbitmq", start=DEADLINE)

    assert isinstance(life.error, StartError)
    assert closings(life.wire) == ["rabbitmq", "redis", "database"]
    assert impolite(life.wire, broken="rabbitmq") == []
    assert life.held == []
    record("rabbitmq", "startup", WireFault.BLACK_HOLE, journal=life.journal, wire=list(map(str, life.wire)))


async def test_the_weather_upstream_is_not_asked_before_the_first_request(wired: Wired) -> None:
    wired.proxies["http"].inject(WireFault.RESET, at=0)
    life = await wired.live()

    assert life.error is None
    assert wired.proxies["http"].fired == []


# The startup.


@pytest.mark.parametrize("fault", WireFault)
@pytest.mark.parametrize(("resource", "message"), NAMED)
async def test_a_start_that_breaks_at_a_message_gives_everything_back(
    wired: Wired, record: Record, resource: str, message: str, fault: WireFault
) -> None:
    life = await start_broken(wired, resource, message, fault)

    assert life is not None, "there was no such message"
    record(resource, "startup", fault, journal=life.journal, wire=list(map(str, life.wire)))


@pytest.mark.long
@pytest.mark.parametrize("fault", WireFault)
@pytest.mark.parametrize("resource", FEWEST)
@pytest.mark.parametrize("first", [0, 1])
async def test_a_start_that_breaks_at_any_message_gives_everything_back(
    wired: Wired, record: Record, resource: str, first: int, fault: WireFault
) -> None:
    """In two halves, as a test that takes longer than a minute looks like one that hangs."""
    for message in count(first, 2):
        life = await start_broken(wired, resource, message, fault)
        if life is None:
            break

    assert message >= FEWEST[resource], "fewer messages than ever before: explain that before you trust it"
    record(resource, "startup", fault, cases=(message - first) // 2)


async def start_broken(wired: Wired, resource: str, message: int | str, fault: WireFault) -> Life | None:
    """Break the start at a message, and see all that has to hold. None: there is no such message."""
    deadline = PATIENT if fault is WireFault.BYTE_AT_A_TIME else DEADLINE
    while True:
        life, fired = await start_broken_within(deadline, wired, resource, message, fault)
        if fired:
            return life
        if life.started:
            return None
        # A case of its own: the deadline expired before the message, and nothing else went wrong.
        assert life.error is not None
        assert isinstance(life.error.__cause__, StartTimeoutError)
        assert deadline < PATIENT, "it neither started nor got to that message"
        deadline *= 2  # a broker on a busy machine may need longer even to get there


async def start_broken_within(
    deadline: float, wired: Wired, resource: str, message: int | str, fault: WireFault
) -> tuple[Life, bool]:
    """Do so with a deadline for the start. Return whether the fault has hit anything before it."""
    proxy = wired.proxies[resource]
    fired: list[str] = []

    async def repair(_: Running) -> None:
        fired.extend(proxy.fired)
        await proxy.recover()

    proxy.inject(fault, at=message)
    life = await wired.live(
        broken=resource,
        start=deadline,
        stop=DEADLINE,
        meanwhile=repair,
        redis_options="protocol=2" if message == "AUTH" else "",  # HELLO does it in the newer one
    )
    if not life.started:
        fired = proxy.fired.copy()
        await proxy.recover()
    where = f"{resource}, {fault} at {message} ({', '.join(fired[:1]) or 'never'}): {life.error}"

    assert life.held == [], where
    if life.started:
        assert_stopped(life, broken=resource, where=where)
    else:
        assert fault is not WireFault.BYTE_AT_A_TIME, where
        assert_rolled_back(life, resource, within=deadline, where=where)
    if fired:
        assert_starts_again(await wired.live(), where)
    return life, bool(fired)


def assert_rolled_back(life: Life, resource: str, *, within: float, where: str) -> None:
    """The start failed because of that resource; what was entered before it was released in reverse, politely, in time."""
    entered = ORDER[: ORDER.index(resource)]
    assert isinstance(life.error, StartError), where
    assert life.error.name == resource, where
    assert life.error.entered == tuple(entered), where
    assert life.error.__cause__ is not None, where
    assert released(life.journal) == list(reversed(entered)), where
    assert not_exited(life.journal) <= {resource}, where
    assert life.start_took < within + GIVING_BACK, where
    connected = [name for name in entered if name in GOODBYES or name == "redis"]
    broken = [resource] if any(record.proxy == resource for record in life.wire) else []
    assert closings(life.wire) == [*broken, *reversed(connected)], where
    assert impolite(life.wire, broken=resource) == [], where


def assert_stopped(life: Life, *, broken: str, where: str) -> None:
    """All was released in reverse, in time; the error is about what is broken, and tells all of it."""
    assert released(life.journal) == list(reversed(ORDER)), where
    assert not_exited(life.journal) <= {broken}, where
    assert life.stop_took < GIVING_BACK + (RELAYING if broken == "database" else 0), where
    failures = [event.error for event in life.journal if event.type in {EventType.EXIT_FAILED, EventType.ABORTED}]
    if life.error is not None:
        assert isinstance(life.error, TeardownError), where
    reported = life.error.exceptions if isinstance(life.error, TeardownError) else ()
    assert list(reported) == failures, where
    assert [name for name in closings(life.wire) if name != broken] == [
        name for name in ("rabbitmq", "redis", "database", "http") if name != broken and name in closings(life.wire)
    ], where
    assert impolite(life.wire, broken=broken) == [], where


def assert_starts_again(life: Life, where: str) -> None:
    assert life.started, where
    assert life.error is None, where
    assert life.held == [], where


# The teardown.


@pytest.mark.parametrize("fault", WireFault)
@pytest.mark.parametrize(
    ("resource", "message"),
    [
        ("database", "Terminate"),
        ("rabbitmq", "Connection.Close"),
        ("rabbitmq", "Connection.CloseOk"),
        *((resource, "right before") for resource in PROTOCOLS),
    ],
)
async def test_a_stop_that_breaks_at_a_goodbye_keeps_no_other_resource_open(
    wired: Wired, record: Record, resource: str, message: str, fault: WireFault
) -> None:
    proxy = wired.proxies[resource]

    async def serve_and_break(gateway: Running) -> None:
        await serve(gateway)
        if message == "right before":
            proxy.break_now(fault)
        else:
            proxy.inject(fault, at=message)

    life = await wired.live(broken=resource, stop=DEADLINE, meanwhile=serve_and_break)
    where = f"{resource}, {fault} at {message}: {life.error}"

    assert proxy.fired, where
    assert life.started, where
    assert life.held == [], where
    assert_stopped(life, broken=resource, where=where)
    await proxy.recover()
    assert_starts_again(await wired.live(), where)
    record(resource, "teardown", fault, journal=life.journal, wire=list(map(str, life.wire)))


@pytest.mark.parametrize("fault", WireFault)
async def test_a_request_in_flight_whose_wire_breaks_keeps_nothing_open(
    wired: Wired, weather: Weather, record: Record, fault: WireFault
) -> None:
    proxy = wired.proxies["http"]
    requests: list[asyncio.Task[object]] = []

    async def ask_and_break(gateway: Running) -> None:
        await weather.set_faults(Faults(latency_s=60))
        requests.append(asyncio.create_task(ask(gateway)))

        async def in_flight() -> bool:
            return any(one.messages == ["request head"] for one in proxy.open_connections)

        await until(in_flight, "the weather is being asked for")
        proxy.break_now(fault)

    async def ask(gateway: Running) -> object:
        return await gateway.client.get(f"/v1/places/{ZURICH}/brief")

    life = await wired.live(broken="http", stop=DEADLINE, meanwhile=ask_and_break, brief_timeout=60)
    where = f"{fault}: {life.error}"

    assert proxy.fired[0] == "request head", where  # aiohttp asks once more when a connection is lost
    assert life.held == [], where
    assert_stopped(life, broken="http", where=where)
    assert all(request.done() for request in requests)
    record("http", "teardown", fault, journal=life.journal, wire=list(map(str, life.wire)))


# What the journal and the wire say.


def released(journal: Journal) -> list[str | None]:
    """What was released, in order."""
    return [event.name for event in journal if event.type is EventType.EXITING]


def not_exited(journal: Journal) -> set[str | None]:
    """What began to exit, and did not end it by itself and without error."""
    return set(released(journal)) - {event.name for event in journal if event.type is EventType.EXITED}


def closings(wire: list[Closed]) -> list[str]:
    """Whose connections were closed, in order: a resource is named again if another one closed in between."""
    return [name for name, _ in groupby(record.proxy for record in wire)]


def impolite(wire: list[Closed], broken: str | None = None) -> list[str]:
    """Connections that were closed by force, or without the goodbye of their protocol; but for those that were broken."""
    return [
        str(record)
        for record in wire
        if record.proxy != broken
        and (record.reset or record.by is ClosedBy.LAB or record.last != GOODBYES.get(record.proxy, record.last))
    ]
