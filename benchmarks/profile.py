"""`python -m benchmarks.profile`: what a warm brief costs beside what the framework does, and in whose code it goes.

The apps answer in this process, asked as their server asks them, so reading and writing HTTP is no part of it. The
profiler makes small functions look dearer than they are: read it as shares.
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

from benchmarks.backends import backends
from benchmarks.contenders import hello_fastapi
from gateway.app import create_app
from gateway.briefs.service import Brief
from gateway.cli import GC_THRESHOLD
from gateway.serving.lifespan_manager import LifespanManager, StatefulApp

CLIENTS = 32
BRIEFS = 50
"""That each of them asks for, one after the other."""

ROUNDS = 40
"""Of which the cheapest counts: what is slower, something else has slowed down."""

BUILT_IN = "~"
"""The file of functions that have none."""

Function = tuple[str, int, str]
"""Its file, line and name."""

Functions = dict[Function, tuple[int, int, float, float, dict[Function, tuple[int, int, float, float]]]]
"""As `pstats` has them: of each how often it was called, the seconds in it, and the same again by caller."""

_FRAMEWORK = "FastAPI, Starlette, Pydantic"
_OWNERS = {
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
class ReadyBriefs:
    """Stands in for the gateway and its briefs: it has one already."""

    ready: Brief

    @property
    def briefs(self) -> "ReadyBriefs":
        return self

    async def get(self, _place_id: int) -> Brief:
        return self.ready


async def main() -> None:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    async with backends(report=lambda _line: None) as ours:
        os.environ.update(ours.servers.environment())
        app = create_app()
        lifespan = LifespanManager(app)
        await lifespan.startup()
        try:
            whole = StatefulApp(app, lifespan.state)
            paths = [f"/v1/places/{place.id}/brief" for place in ours.few]
            await ask_from_all(whole, paths)
            ready = await lifespan.state["services"].briefs.get(ours.few[0].id)
            gc.freeze()  # as the server does
            gc.set_threshold(GC_THRESHOLD)
            print("CPU time of an answer in the process, without HTTP")
            asked: dict[str, tuple[ASGIApp, Sequence[str]]] = {
                "FastAPI hello": (hello_fastapi.app, ["/"]),
                "our route, with a brief at hand": (StatefulApp(app, {"services": ReadyBriefs(ready)}), paths),
                "a warm brief": (whole, paths),
            }
            for what, microseconds in (await costs(asked)).items():
                print(f"{microseconds:5.0f} us  {what}")
            profiler = cProfile.Profile()
            profiler.enable()
            await ask_from_all(whole, paths)
            profiler.disable()
        finally:
            await lifespan.shutdown()
    took = shares(pstats.Stats(profiler).stats)  # type: ignore[attr-defined] # typeshed does not know it
    print("Whose a warm brief is")
    for owner, microseconds in took.most_common():
        print(f"{microseconds / took.total():5.0%}  {owner}")


async def costs(asked: Mapping[str, tuple[ASGIApp, Sequence[str]]]) -> dict[str, float]:
    """The microseconds of CPU time for one answer of each app, of several at once, in the cheapest of several rounds."""
    took = dict.fromkeys(asked, float("inf"))
    for _ in range(ROUNDS):
        for what, (app, paths) in asked.items():
            began = time.process_time()
            await ask_from_all(app, paths)
            took[what] = min(took[what], time.process_time() - began)
    return {what: seconds / (CLIENTS * BRIEFS) * 1e6 for what, seconds in took.items()}


async def ask_from_all(app: ASGIApp, paths: Sequence[str]) -> None:
    async def client(first: int) -> None:
        for path in islice(cycle(paths), first, first + BRIEFS):
            await ask(app, path)

    await asyncio.gather(*(client(number * BRIEFS) for number in range(CLIENTS)))


async def ask(app: ASGIApp, path: str) -> None:
    """Ask as the server does, for an answer that has to be 200."""

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        assert message.get("status", 200) == 200, message  # noqa: S101, PLR2004 - or it is no brief

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


def shares(functions: Functions) -> Counter[str]:
    """How many microseconds of all functions are whose. What is built in belongs to whoever calls it."""
    took: Counter[str] = Counter()
    for (file, _, _), (_, _, seconds, _, callers) in functions.items():
        if file != BUILT_IN:
            took[owner_of(file)] += round(seconds * 1e6)
            continue
        for (caller, _, _), (_, _, seconds_there, _) in callers.items():
            took[owner_of(caller)] += round(seconds_there * 1e6)
    return took


def owner_of(file: str) -> str:
    for part in reversed(Path(file).parts):
        if part in _OWNERS:
            return _OWNERS[part]
    return "the rest"


if __name__ == "__main__":
    uvloop.run(main())
