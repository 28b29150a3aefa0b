"""The contenders: their names, descriptions and commands."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gateway.devstack.server import DevstackError

NODE_FOLDER = Path(__file__).parent / "contenders" / "node"


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A server that is measured. It listens on loopback and uses the backends that its environment names.

    Attributes:
        name: unique; part of the names of its cases.
        description: one line for the report.
        command: takes a port and returns the command that serves on it.
        ready_path: the path that responds with 200 once it serves; None: the brief of a place.
        environment: additional environment variables.
    """

    name: str
    description: str
    command: Callable[[int], list[str]]
    ready_path: str | None = None
    environment: dict[str, str] = field(default_factory=dict)


def _uvicorn(module: str) -> Callable[[int], list[str]]:
    """Return the command of uvicorn with the options of the gateway: uvloop, httptools, no access log."""
    options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    app = f"benchmarks.contenders.{module}:app"
    return lambda port: [sys.executable, "-m", "uvicorn", app, "--host", "127.0.0.1", "--port", str(port), *options]


def _gateway_command(module: str) -> Callable[[int], list[str]]:
    return lambda port: [sys.executable, "-m", module, "serve", "--port", str(port)]


def _node(script: str) -> Callable[[int], list[str]]:
    return lambda port: ["node", str(NODE_FOLDER / script), str(port)]


# The other contenders have no deadline, and refuse no request. With its defaults the gateway would leave sections out on a busy
# machine, and refuse requests that arrive while those of the case before are ending. With these limits its responses are late
# instead, like those of the others.
_NO_LIMITS = {"GATEWAY_BRIEF_TIMEOUT": "5", "GATEWAY_MAX_REQUESTS": "10000"}

PER_REQUEST = Contender(
    name="per request",
    description="FastAPI, new clients for every request: engine, HTTP client, Redis, RabbitMQ; otherwise like the tutorial",
    command=_uvicorn("per_request"),
)
TUTORIAL = Contender(
    name="tutorial",
    description="FastAPI, clients in the lifespan, sequential awaits, SQLAlchemy's ORM, a response model, no weather cache, "
    "an event published and awaited in each request",
    command=_uvicorn("tutorial"),
)
HELLO_FASTAPI = Contender(
    name="FastAPI hello",
    description="ceiling: the first example of FastAPI's documentation, with its return type; no backend",
    command=_uvicorn("hello_fastapi"),
    ready_path="/",
)
PRECOMPUTED_BYTES = Contender(
    name="FastAPI, precomputed bytes",
    description="ceiling: a plain FastAPI route that takes the place's id and returns the precomputed bytes of its brief",
    command=_uvicorn("precomputed_bytes"),
    environment=_NO_LIMITS,
)
PRECOMPUTED_BRIEFS = Contender(
    name="gateway, precomputed briefs",
    description="ceiling: the gateway with precomputed briefs: only its route, its middleware and the JSON are left",
    command=_gateway_command("benchmarks.contenders.precomputed_briefs"),
    environment=_NO_LIMITS,
)
FASTIFY = Contender(
    name="Fastify, tuned",
    description="Node.js: undici, pg (pool of 10, prepared statement), ioredis (auto-pipelined), amqplib (batched events); "
    "responses serialised by schema, weather cached in Redis, an observation and its event stored by one statement. It runs no "
    "model: its outlook is a constant",
    command=_node("tuned.mjs"),
    environment={"NODE_ENV": "production"},
)
FASTIFY_SHARED = Contender(
    name="Fastify, shared",
    description="the same, but concurrent requests share statements, transactions, Redis commands and upstream calls, as in "
    "the gateway",
    command=_node("shared.mjs"),
    environment={"NODE_ENV": "production"},
)
GATEWAY = Contender(
    name="gateway",
    description="the gateway as `gateway serve` runs it, model included, but with a deadline of 5 s instead of 0.8 s for a "
    "brief, and without a bound of the requests in progress: the other contenders have neither, so under load its responses are late, "
    "too, instead of incomplete",
    command=_gateway_command("gateway"),
    environment=_NO_LIMITS,
)
ONE_BY_ONE = Contender(
    name="gateway, one by one",
    description="the gateway without groups: a transaction for each observation, an upstream call for each place",
    command=_gateway_command("benchmarks.contenders.one_by_one"),
    environment=_NO_LIMITS,
)
DEFAULT_DEADLINE = Contender(
    name="gateway, default deadline",
    description="the gateway as `gateway serve` runs it, for the overload",
    command=_gateway_command("gateway"),
)

CONTENDERS = [
    PER_REQUEST,
    TUTORIAL,
    HELLO_FASTAPI,
    PRECOMPUTED_BYTES,
    PRECOMPUTED_BRIEFS,
    FASTIFY,
    FASTIFY_SHARED,
    GATEWAY,
    ONE_BY_ONE,
    DEFAULT_DEADLINE,
]
NODE_CONTENDERS = [FASTIFY, FASTIFY_SHARED]
MIN_NODE_VERSION = 20


def install_node_packages() -> str | None:
    """Install the locked packages of the Node.js contenders. Return the reason why these cannot run, or None.

    Raises:
        DevstackError: npm failed.
    """
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        return "there is no Node.js with npm on this machine"
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - a program of this machine
    if int(version.removeprefix("v").partition(".")[0]) < MIN_NODE_VERSION:
        return f"Node.js {version} is too old: Fastify needs {MIN_NODE_VERSION}"
    command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    npm = subprocess.run(command, cwd=NODE_FOLDER, env=dict(os.environ), capture_output=True, text=True, check=False)  # noqa: S603 - a constant command
    if npm.returncode:
        raise DevstackError(f"npm ci failed with status {npm.returncode}:\n{npm.stderr[-2000:]}")
    return None
