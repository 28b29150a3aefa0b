"""Injects outages, and records when each server was down."""

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import cycle

import aio_pika

from gateway.devstack.rabbitmq import RabbitMQServer
from gateway.devstack.server import Server
from tests.chaos.replicated_database import Database
from tests.end_to_end.harness import Process

RECOVERY_TIMEOUT = 2.0  # from the end of an outage until the gateway must use the backend again
MAX_OUTAGE = 2.5
START_TIMEOUT = 20.0  # for a process that is started again, in seconds
HANG_DURATION = 0.5  # before a kill; long enough that a client has sent data meanwhile

POISON_TYPE = "unknown.event"  # no queue takes events of this type
POISON_ROWS = 100
DECLARE_ATTEMPTS = 20

# The server responds during these faults, and does a part of its work.
PARTIAL_FAULTS = frozenset({"switched over", "read-only", "poison rows", "wrong queue"})


@dataclass(slots=True)
class Outage:
    """A period in which one server was not healthy. Times are those of `time.monotonic()`.

    Attributes:
        name: of the server, replica or worker.
        fault: such as `killed`.
        started_at: immediately before the fault was injected.
        down_at: the server was certainly down from this time ...
        recovering_at: ... until this time.
        ended_at: the server was up again.
    """

    name: str
    fault: str
    started_at: float
    down_at: float = float("inf")
    recovering_at: float = float("inf")
    ended_at: float = float("inf")


@dataclass
class Outages:
    """All outages of a run, in order."""

    all: list[Outage] = field(default_factory=list)

    @contextmanager
    def recording(self, name: str, fault: str) -> Iterator[Outage]:
        """Record the block as an outage."""
        outage = Outage(name, fault, started_at=time.monotonic())
        self.all.append(outage)
        try:
            yield outage
        finally:
            outage.ended_at = time.monotonic()

    def names(self) -> set[str]:
        return {outage.name for outage in self.all}

    def may_explain(self, name: str, since: float, until: float) -> bool:
        """Return whether the server had an outage, or was in the two seconds after one, at any time of a span."""
        return any(
            outage.name == name and outage.started_at <= until and since <= outage.ended_at + RECOVERY_TIMEOUT
            for outage in self.all
        )

    def down_throughout(self, name: str, since: float, until: float) -> bool:
        """Return whether the server was certainly down for the whole of a span."""
        return any(
            outage.name == name and outage.down_at <= since and until <= outage.recovering_at for outage in self.all
        )


FaultFactory = Callable[[], AbstractAsyncContextManager[object]]  # the fault lasts as long as the block


def server_faults(server: Server) -> dict[str, FaultFactory]:
    """Return the faults for any server, by name."""

    @asynccontextmanager
    async def suspended() -> AsyncIterator[None]:
        with server.suspended():
            yield

    return {"killed": server.killed, "stopped and started": server.stopped, "suspended": suspended}


def killed_while_suspended(server: Server) -> FaultFactory:
    """Return a fault that loses all data that was sent to the server and not read yet.

    It detects a client that treats sent messages as received.
    """

    @asynccontextmanager
    async def killed() -> AsyncIterator[None]:
        server.suspend()
        await asyncio.sleep(HANG_DURATION)
        async with server.killed():
            yield

    return killed


def observations_locked(database: Database) -> FaultFactory:
    """Return a fault that locks the table of observations. A brief then has its place and no observations."""

    @asynccontextmanager
    async def locked() -> AsyncIterator[None]:
        async with database.superuser("gateway") as connection, connection.transaction():
            await connection.execute("LOCK TABLE observations IN ACCESS EXCLUSIVE MODE")
            yield

    return locked


def read_only(database: Database) -> FaultFactory:
    """Return a fault that makes new sessions read-only, and closes the others. The setting of a session stays after the fault."""

    @asynccontextmanager
    async def is_read_only() -> AsyncIterator[None]:
        async with database.superuser() as connection:
            await connection.execute("ALTER DATABASE gateway SET default_transaction_read_only = on")
            await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'gateway'")
            yield
            await connection.execute("ALTER DATABASE gateway RESET default_transaction_read_only")

    return is_read_only


def poison_rows(database: Database) -> FaultFactory:
    """Return a fault that adds rows to the outbox which no relay can publish. They stay."""

    @asynccontextmanager
    async def added() -> AsyncIterator[None]:
        async with database.superuser("gateway") as connection:
            await connection.execute(
                "INSERT INTO outbox (event_id, type, body) SELECT gen_random_uuid(), $1, '{}' FROM generate_series(1, $2)",
                POISON_TYPE,
                POISON_ROWS,
            )
        yield

    return added


def wrong_queue(server: RabbitMQServer, name: str) -> FaultFactory:
    """Return a fault that replaces a queue by one with other arguments."""

    @asynccontextmanager
    async def replaced() -> AsyncIterator[None]:
        async with await aio_pika.connect(server.url) as connection:
            for _ in range(DECLARE_ATTEMPTS):  # the gateway may declare the queue between both calls
                channel = await connection.channel()
                await channel.queue_delete(name)
                with contextlib.suppress(aio_pika.exceptions.ChannelPreconditionFailed):
                    await channel.declare_queue(name, durable=True)
                    break
            yield
            await (await connection.channel()).queue_delete(name)

    return replaced


@dataclass
class ManagedProcess:
    """A gateway or a worker. It is started again after each kill and stop, as by a service manager.

    Attributes:
        start: starts a process.
        serving: its output once it serves.
        process: the current process.
    """

    start: Callable[[], Process]
    serving: str
    process: Process = field(init=False)

    async def up(self) -> None:
        """Start it, again if the start fails, as a service manager does. A start fails while a queue has wrong arguments."""
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            self.process = self.start()
            try:
                await self.process.wait_for_output(self.serving)
            except AssertionError:
                if self.process.running or time.monotonic() > deadline:
                    raise
            else:
                return

    def assert_running(self) -> None:
        """Assert that it has not exited unexpectedly."""
        assert self.process.running, f"exited unexpectedly:\n{self.process.output[-4000:]}"

    def faults(self) -> dict[str, FaultFactory]:
        return {"killed": self._killed, "stopped and started": self._stopped, "suspended": self._suspended}

    @asynccontextmanager
    async def _killed(self) -> AsyncIterator[None]:
        self.assert_running()
        self.process.kill()
        try:
            yield
        finally:
            await self.up()

    @asynccontextmanager
    async def _stopped(self) -> AsyncIterator[None]:
        self.assert_running()
        self.process.send_signal(signal.SIGTERM)
        try:
            yield
        finally:
            status = await self.process.exit_status(timeout=60)
            assert status in {0, 4}, f"stopped with status {status}:\n{self.process.output[-4000:]}"
            await self.up()

    @asynccontextmanager
    async def _suspended(self) -> AsyncIterator[None]:
        self.assert_running()
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


async def inject_faults(
    targets: dict[str, dict[str, FaultFactory]], outages: Outages, rng: random.Random, deadline: float
) -> None:
    """Inject one fault after the other until the deadline, in rounds: each round has one fault of each target, and the faults
    of a target alternate.
    """
    faults = {name: cycle(rng.sample(list(targets[name]), len(targets[name]))) for name in targets}
    while time.monotonic() < deadline:
        for name in rng.sample(list(targets), len(targets)):
            fault = next(faults[name])
            await asyncio.sleep(RECOVERY_TIMEOUT * rng.uniform(1.1, 1.8))
            if time.monotonic() > deadline:
                break
            with outages.recording(name, fault) as outage:
                async with targets[name][fault]():
                    if fault not in PARTIAL_FAULTS:
                        outage.down_at = time.monotonic()
                    await asyncio.sleep(MAX_OUTAGE * rng.uniform(0.2, 1))
                    outage.recovering_at = time.monotonic()
