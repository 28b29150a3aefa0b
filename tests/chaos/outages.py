"""What is broken, and when: the one place that knows what the clients are to be told."""

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from gateway.devstack.postgresql import PostgreSQL
from gateway.devstack.server import Server
from tests.end_to_end.harness import Process

HEALTHY_AFTER = 2.0
"""Seconds after its return by which everybody has to know that a backend is back."""

BROKEN_FOR = 2.5
"""The most seconds that something stays broken."""


@dataclass(slots=True)
class Outage:
    """One backend that was not healthy, from the moment before it was broken to the moment after it was back."""

    name: str
    how: str
    began: float
    broken: float = float("inf")
    """From when on it was certainly down."""
    mending: float = float("inf")
    """Until when it was certainly down."""
    ended: float = float("inf")


@dataclass
class Outages:
    """All of them, in order."""

    all: list[Outage] = field(default_factory=list)

    @contextmanager
    def of(self, name: str, how: str) -> Iterator[Outage]:
        outage = Outage(name, how, began=time.monotonic())
        self.all.append(outage)
        try:
            yield outage
        finally:
            outage.ended = time.monotonic()

    def names(self) -> set[str]:
        return {outage.name for outage in self.all}

    def may_explain(self, name: str, since: float, until: float) -> bool:
        """Whether a backend was not healthy for two seconds at some time within a span."""
        return any(it.name == name and it.began <= until and since <= it.ended + HEALTHY_AFTER for it in self.all)

    def down_throughout(self, name: str, since: float, until: float) -> bool:
        """Whether a backend was certainly down for the whole of a span."""
        return any(it.name == name and it.broken <= since and until <= it.mending for it in self.all)


Breaking = Callable[[], AbstractAsyncContextManager[object]]
"""Breaks something; after the block it is as it was."""


def ways_to_break(server: Server) -> dict[str, Breaking]:
    @asynccontextmanager
    async def suspended() -> AsyncIterator[None]:
        with server.suspended():
            yield

    return {"killed": server.killed, "stopped and started": server.stopped, "suspended": suspended}


HANGS_FOR = 0.5
"""Seconds that a server hangs before it is killed: long enough for somebody to have sent it something."""


def killed_while_it_hangs(server: Server) -> Breaking:
    """What it was sent and had not read is lost with it: whoever took sending for having is found out."""

    @asynccontextmanager
    async def killed() -> AsyncIterator[None]:
        server.suspend()
        await asyncio.sleep(HANGS_FOR)
        async with server.killed():
            yield

    return killed


def observations_locked(server: PostgreSQL) -> Breaking:
    """It answers, but for what was reported: a brief still has its place, and no observations."""

    @asynccontextmanager
    async def locked() -> AsyncIterator[None]:
        async with server.superuser("gateway") as connection, connection.transaction():
            await connection.execute("LOCK TABLE observations IN ACCESS EXCLUSIVE MODE")
            yield

    return locked


@dataclass
class Program:
    """A gateway or a worker, started again when it was killed, as whatever runs it in earnest would."""

    start: Callable[[], Process]
    serving: str
    """What it prints when it is up."""
    process: Process = field(init=False)

    async def up(self) -> None:
        self.process = self.start()
        await self.process.wait_for_output(self.serving)

    def assert_running(self) -> None:
        """It has not ended by itself."""
        assert self.process.running, f"it has ended by itself:\n{self.process.output[-4000:]}"

    def ways_to_break(self) -> dict[str, Breaking]:
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
            assert status in {0, 4}, f"it stopped with {status}:\n{self.process.output[-4000:]}"
            await self.up()

    @asynccontextmanager
    async def _suspended(self) -> AsyncIterator[None]:
        self.assert_running()
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


async def break_one_after_another(
    targets: dict[str, dict[str, Breaking]], outages: Outages, chance: random.Random, until: float
) -> None:
    """Break the targets in every way, in random order, again and again until `until` (`time.monotonic()`)."""
    ways = [(name, how) for name in targets for how in targets[name]]
    while time.monotonic() < until:
        chance.shuffle(ways)
        for name, how in ways:
            await asyncio.sleep(HEALTHY_AFTER * chance.uniform(1.1, 1.8))
            if time.monotonic() > until:
                break
            with outages.of(name, how) as outage:
                async with targets[name][how]():
                    outage.broken = time.monotonic()
                    await asyncio.sleep(BROKEN_FOR * chance.uniform(0.2, 1))
                    outage.mending = time.monotonic()
