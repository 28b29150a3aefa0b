"""The CPU time of a warm brief: compared with the framework alone, and by library.

`python -m benchmarks.profile` calls the apps in its own process as the server does, so that HTTP is not included. The
profiler overstates small functions: read its figures as shares.
"""

import asyncio
import cProfile
import gc
import os
import pstats
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import structlog
import uvloop
from starlette.types import ASGIApp, Message, Scope

from benchmarks.backends import running_backends
from benchmarks.contenders import hello_fastapi
from gateway.app import create_app
from gateway.briefs.models import Brief
from gateway.cli import GC_THRESHOLD
from gateway.serving.lifespan_manager import LifespanManager, StatefulApp

CLIENTS = 32
REQUESTS_PER_CLIENT = 50
ROUNDS = 40  # the fastest one counts: other processes slow down the rest

BUILT_IN = "~"  # the file of built-in functions in `pstats`

Function = tuple[str, int, str]  # file, line, name

# As in `pstats`: primitive calls, calls, own seconds, cumulative seconds, and the same by caller.
Functions = dict[Function, tuple[int, int, float, float, dict[Function, tuple[int, int, float, float]]]]

_FRAMEWORK = "FastAPI, Starlette, Pydantic"
_LIBRARIES = {
    "fastapi": _FRAMEWORK,
    "starlette": _FRAMEWORK,
    "pydantic": _FRAMEWORK,
    "pydantic_core": _FRAMEWORK,
    "gateway": "the gateway",
    "asyncpg": "asyncpg, SQLAlchemy",
    "sqlalchemy": "asyncpg, SQLAlchemy",
    "redis": "redis-py",
    "aiormq": "aio-pika",
    "aio_pika": "aio-pika",
    "structlog": "structlog",
    "asyncio": "asyncio",
}


@dataclass(frozen=True)
class PrecomputedServices:
    """The gateway's services with a brief service that returns the same brief for every place."""

    brief: Brief

    @property
    def briefs(self) -> "PrecomputedServices":
        return self

    async def get(self, _place_id: int, _requested_at: float | None = None) -> Brief:
        return self.brief


async def main() -> None:
    """Measure and print."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    async with running_backends(report=lambda _line: None) as backends:
        os.environ.update(backends.servers.environment())
        app = create_app()
        lifespan = LifespanManager(app)
        await lifespan.startup()
        try:
            gateway = StatefulApp(app, lifespan.state)
            paths = [f"/v1/places/{place.id}/brief" for place in backends.warm_places]
            await send_requests(gateway, paths)
            brief = await lifespan.state["services"].briefs.get(backends.warm_places[0].id)
            gc.freeze()  # as the server does
            gc.set_threshold(GC_THRESHOLD)
            print("CPU time per response in the process, without HTTP")
            apps: dict[str, tuple[ASGIApp, Sequence[str]]] = {
                "FastAPI hello": (hello_fastapi.app, ["/"]),
                "the gateway's route, with a precomputed brief": (
                    StatefulApp(app, {"services": PrecomputedServices(brief)}),
                    paths,
                ),
                "a warm brief": (gateway, paths),
            }
            for name, microseconds in (await cpu_us_per_response(apps)).items():
                print(f"{microseconds:5.0f} us  {name}")
            profiler = cProfile.Profile()
            profiler.enable()
            await send_requests(gateway, paths)
            profiler.disable()
        finally:
            await lifespan.shutdown()
    by_library = cpu_us_by_library(pstats.Stats(profiler).stats)  # type: ignore[attr-defined] # missing in typeshed
    print("Shares of a warm brief")
    for library, microseconds in by_library.most_common():
        print(f"{microseconds / by_library.total():5.0%}  {library}")


async def cpu_us_per_response(apps: Mapping[str, tuple[ASGIApp, Sequence[str]]]) -> dict[str, float]:
    """Return the CPU time per response of each app in the fastest round, in microseconds.

    Args:
        apps: app and request paths, by name.
    """
    fastest = dict.fromkeys(apps, float("inf"))
    for _ in range(ROUNDS):
        for name, (app, paths) in apps.items():
            started_at = time.process_time()
            await send_requests(app, paths)
            fastest[name] = min(fastest[name], time.process_time() - started_at)
    return {name: seconds / (CLIENTS * REQUESTS_PER_CLIENT) * 1e6 for name, seconds in fastest.items()}


async def send_requests(app: ASGIApp, paths: Sequence[str]) -> None:
    """Send the requests of all clients, which run concurrently."""

    async def client(first: int) -> None:
        for path in islice(cycle(paths), first, first + REQUESTS_PER_CLIENT):
            await send_request(app, path)

    await asyncio.gather(*(client(number * REQUESTS_PER_CLIENT) for number in range(CLIENTS)))


async def send_request(app: ASGIApp, path: str) -> None:
    """Call the app as the server does. The response has to be 200."""
    body_sent = False

    async def receive() -> Message:
        nonlocal body_sent
        if body_sent:
            await asyncio.Event().wait()  # the client stays connected
        body_sent = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        assert message.get("status", 200) == 200, message  # noqa: S101, PLR2004 - any other response is cheaper

    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"gateway")],
        "server": ("gateway", 80),
        "client": ("127.0.0.1", 1),
    }
    await app(scope, receive, send)


def cpu_us_by_library(functions: Functions) -> Counter[str]:
    """Return the microseconds of each library. A built-in function counts for the library that calls it."""
    by_library: Counter[str] = Counter()
    for (file, _, _), (_, _, own_seconds, _, callers) in functions.items():
        if file != BUILT_IN:
            by_library[library_of(file)] += round(own_seconds * 1e6)
            continue
        for (caller, _, _), (_, _, seconds_in_call, _) in callers.items():
            by_library[library_of(caller)] += round(seconds_in_call * 1e6)
    return by_library


def library_of(file: str) -> str:
    """Return the name of the innermost known package in a path, or "the rest"."""
    for part in reversed(Path(file).parts):
        if part in _LIBRARIES:
            return _LIBRARIES[part]
    return "the rest"


if __name__ == "__main__":
    uvloop.run(main())
