"""Who takes part: how each is started, and what it is."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gateway.devstack.server import DevstackError

NODE = Path(__file__).parent / "contenders" / "node"


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A server that is measured. It listens on loopback, and uses the servers that its environment names."""

    name: str
    what: str
    """One line for the report."""
    command: Callable[[int], list[str]]
    """Starts it on a port."""
    ready: str | None = None
    """What it answers with 200 once it serves; None: the brief of a place."""
    environment: dict[str, str] = field(default_factory=dict)


def _uvicorn(module: str) -> Callable[[int], list[str]]:
    """The server that the gateway has too, set as fast."""
    fast = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    app = f"benchmarks.contenders.{module}:app"
    return lambda port: [sys.executable, "-m", "uvicorn", app, "--host", "127.0.0.1", "--port", str(port), *fast]


def _node(script: str) -> Callable[[int], list[str]]:
    return lambda port: ["node", str(NODE / script), str(port)]


def _gateway(port: int) -> list[str]:
    return [sys.executable, "-m", "gateway", "serve", "--port", str(port)]


# The others know no deadline. With ours as it is, a moment in which the machine does something else would leave parts out,
# which is less work; so the same moment makes answers late with all of them.
_PATIENT = {"GATEWAY_BRIEF_TIMEOUT": "5"}

PER_REQUEST = Contender(
    name="per request",
    what="FastAPI, new clients for every request: engine, HTTP client, Redis, RabbitMQ; else as the tutorial",
    command=_uvicorn("per_request"),
)
TUTORIAL = Contender(
    name="tutorial",
    what="FastAPI, clients in the lifespan, awaits in sequence, SQLAlchemy's ORM, response model, no cache of the weather, "
    "an event published and awaited with each request",
    command=_uvicorn("tutorial"),
)
HELLO_FASTAPI = Contender(
    name="FastAPI hello",
    what="a roof: the first example of FastAPI's documentation, with its return type; it asks no backend",
    command=_uvicorn("hello_fastapi"),
    ready="/",
)
HELLO_ASGI = Contender(
    name="raw ASGI hello", what="a roof: the same without FastAPI", command=_uvicorn("hello_asgi"), ready="/"
)
BYTES_AT_HAND = Contender(
    name="FastAPI, bytes at hand",
    what="a roof: a plain route of FastAPI that takes the place's id and has the bytes of its brief already",
    command=_uvicorn("bytes_at_hand"),
    environment=_PATIENT,
)
BRIEFS_AT_HAND = Contender(
    name="gateway, briefs at hand",
    what="a roof: ours, with each brief put together already: its route, its layers, and the JSON are left",
    command=lambda port: [
        sys.executable,
        "-m",
        "benchmarks.contenders.precomputed_briefs",
        "serve",
        "--port",
        str(port),
    ],
    environment=_PATIENT,
)
FASTIFY = Contender(
    name="Fastify, tuned",
    what="Node: undici, pg (pool of 10, prepared statement), ioredis (auto-pipelined), amqplib (batched events); answers "
    "serialised by schema, weather kept in Redis. It runs no model: its outlook is a constant",
    command=_node("tuned.mjs"),
    environment={"NODE_ENV": "production"},
)
FASTIFY_SHARED = Contender(
    name="Fastify, shared",
    what="the same, and requests that arrive together share one statement and one command to Redis, as ours do",
    command=_node("shared.mjs"),
    environment={"NODE_ENV": "production"},
)
GATEWAY = Contender(
    name="gateway",
    what="ours, as `gateway serve` runs it, model included; only that a brief has 5 s instead of 0.8 s, so that under load it "
    "is late rather than incomplete, as with the others, who know no deadline",
    command=_gateway,
    environment=_PATIENT,
)
SECOND_GATEWAY = Contender(
    name="second gateway",
    what="another process of ours, for the figures with two",
    command=_gateway,
    environment=_PATIENT | {"GATEWAY_INSTANCE": "second"},
)

CONTENDERS = [
    PER_REQUEST,
    TUTORIAL,
    HELLO_FASTAPI,
    HELLO_ASGI,
    BYTES_AT_HAND,
    BRIEFS_AT_HAND,
    FASTIFY,
    FASTIFY_SHARED,
    GATEWAY,
    SECOND_GATEWAY,
]
IN_NODE = [FASTIFY, FASTIFY_SHARED]


def prepare_node() -> str | None:
    """Install what the peers in Node need, as their lock file says; return why they cannot run, if so.

    Raises:
        DevstackError: npm failed.
    """
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "there is no Node.js with npm on this machine"
    command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    done = subprocess.run(command, cwd=NODE, env=dict(os.environ), capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise DevstackError(f"npm ci failed with status {done.returncode}:\n{done.stderr[-2000:]}")
    return None
