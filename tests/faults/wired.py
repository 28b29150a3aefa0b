"""A gateway with a proxy in front of each of its servers, and what is held of it: by us, on the wire, and by the servers."""

import asyncio
import gc
import os
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

import httpx
from fastapi import FastAPI

from faultlab import ResourceSnapshot
from faultlab.wire import Closed, Proxy, WireLog
from gateway.app import create_app
from gateway.asgi import AppLifespan, Requests
from gateway.devstack.stack import Devstack
from gateway.lifecycle import Journal
from gateway.settings import Settings
from tests.end_to_end.running import Running, forget
from tests.faults.stage import server_of

PROTOCOLS = {"http": "http", "database": "postgresql", "redis": "redis", "rabbitmq": "amqp"}
"""What each resource speaks with its server, in the order in which they are entered."""

PATIENT = 5.0
"""Seconds for the start and for the stop of each resource, unless a test says otherwise. They need a few milliseconds."""

SETTLE_WITHIN = 3.0
"""Seconds for everything to get to its end, before what is still there counts as held."""

PREFIX = f"wire-{os.getpid()}-"
"""What the names of all lives begin with; each has a number of its own."""

_numbers = count(1)


@dataclass
class Life:
    """One life of a gateway: what became of it."""

    journal: Journal = field(default_factory=Journal)
    started: bool = False
    error: Exception | None = None
    """What the start or the stop raised."""
    start_took: float = 0
    stop_took: float = 0
    wire: list[Closed] = field(default_factory=list)
    """The connections that were closed meanwhile, in order."""
    held: list[str] = field(default_factory=list)
    """What was still held once it had settled: by this process, on the wire, by PostgreSQL, by Redis; and complaints."""


@dataclass
class Wired:
    """Proxies, all writing to one log, in front of the real servers."""

    servers: Devstack
    proxies: dict[str, Proxy]
    log: WireLog

    async def live(
        self,
        *,
        broken: str | None = None,
        start: float = PATIENT,
        stop: float = PATIENT,
        meanwhile: Callable[[Running], Awaitable[object]] | None = None,
        redis_options: str = "",
        brief_timeout: float = 5,
    ) -> Life:
        """Let a gateway start, serve and stop.

        Args:
            broken: the resource that the two deadlines are for.
            start: seconds that its start may take.
            stop: seconds that its stop may take.
            meanwhile: what happens while it serves.
            redis_options: what follows the `?` in the URL of Redis.
            brief_timeout: how long an answer may take.
        """
        await forget(self.servers)  # so that upstream is asked for the weather
        instance = f"{PREFIX}{next(_numbers)}-"
        deadlines = {resource: (start, stop) if resource == broken else (PATIENT, PATIENT) for resource in PROTOCOLS}
        settings = self.settings(instance, deadlines, redis_options, brief_timeout)
        life = Life()
        complaints: list[str] = []
        loop = asyncio.get_running_loop()
        handler = loop.get_exception_handler()
        loop.set_exception_handler(lambda _loop, context: complaints.append(f"complaint {context}"))
        before, closed_before = ResourceSnapshot.take(), len(self.log.closed)
        try:
            await self._live(create_app(settings), life, meanwhile)
            life.held = await self._held_in_the_end(instance, before) + complaints
        finally:
            loop.set_exception_handler(handler)
        life.wire = self.log.closed[closed_before:]
        return life

    async def _live(self, app: FastAPI, life: Life, meanwhile: Callable[[Running], Awaitable[object]] | None) -> None:
        lifespan = AppLifespan(app)
        began = time.monotonic()
        try:
            await lifespan.enter()
            life.started = True
            life.start_took = time.monotonic() - began
            try:
                if meanwhile is not None:
                    requests = Requests(app, lifespan.state)
                    transport = httpx.ASGITransport(requests)
                    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
                        await meanwhile(Running(client, app.state.stack, lifespan.state["gateway"], requests))
            finally:
                began = time.monotonic()
                await lifespan.leave()
        except AssertionError:
            raise
        except Exception as error:  # noqa: BLE001 - what it is, is for the test to judge
            life.error = error
        took = time.monotonic() - began
        life.stop_took, life.start_took = (took, life.start_took) if life.started else (0, took)
        life.journal = app.state.stack.journal

    def settings(
        self,
        instance: str,
        deadlines: dict[str, tuple[float, float]],
        redis_options: str = "",
        brief_timeout: float = 5,
    ) -> Settings:
        """Settings that lead through the proxies, with the paths and passwords that they have without."""

        def group(resource: str, name: str, url: str) -> dict[str, object]:
            start, stop = deadlines[resource]
            through = re.sub(r":\d+(?=/|$)", f":{self.proxies[resource].port}", url)
            return {name: through, "start_timeout": start, "stop_timeout": stop}

        return Settings.model_validate(
            {
                "http": group("http", "weather_url", self.servers.weather.url),
                "database": group("database", "url", self.servers.postgresql.url),
                "redis": group("redis", "url", f"{self.servers.redis.url}?{redis_options}"),
                "rabbitmq": group("rabbitmq", "url", self.servers.rabbitmq.url),
                "instance": instance,
                "brief_timeout": brief_timeout,
            }
        )

    async def _held_in_the_end(self, instance: str, before: ResourceSnapshot) -> list[str]:
        gc.collect()  # a task that was lost complains when it is collected
        deadline = time.monotonic() + SETTLE_WITHIN
        while (held := await self._held(instance, before)) and time.monotonic() < deadline:  # noqa: ASYNC110 - nothing tells us
            await asyncio.sleep(0.005)
        return held

    async def _held(self, instance: str, before: ResourceSnapshot) -> list[str]:
        ours = ResourceSnapshot.take().leaked_since(before)
        wire = [f"wire {name} {one.number}" for name, proxy in self.proxies.items() for one in proxy.open_connections]
        if ours or wire:
            return ours + wire  # and the servers need not be asked yet
        async with self.servers.postgresql.superuser() as connection:
            rows = await connection.fetch("SELECT application_name AS name FROM pg_stat_activity")
        names = [("postgresql", row["name"]) for row in rows]
        names += [("redis", name) for name in await self.servers.redis.clients()]
        return [f"{server} {name}" for server, name in names if name.startswith(instance)]


@asynccontextmanager
async def wired_to(servers: Devstack) -> AsyncGenerator[Wired]:
    """A proxy in front of each server."""
    log = WireLog()
    async with AsyncExitStack() as stack:
        proxies = {
            resource: await stack.enter_async_context(
                Proxy(resource, protocol, "127.0.0.1", server_of(servers, resource).port, log=log)
            )
            for resource, protocol in PROTOCOLS.items()
        }
        yield Wired(servers, proxies, log)
