"""A program that owns a stack until it is told to stop, or is killed: `python stack_owner_program.py [postgresql | redis]`.

It prints lines of JSON: what is reported, and in the end where everything is.
"""

import asyncio
import json
import signal
import sys
from collections.abc import Mapping

from gateway.devstack.folder import temporary_data_dir
from gateway.devstack.postgresql import PostgreSQLServer
from gateway.devstack.redis import RedisServer
from gateway.devstack.server import Server
from gateway.devstack.stack import devstack


def say(line: Mapping[str, object]) -> None:
    print(json.dumps(line), flush=True)  # noqa: T201


def report(line: str) -> None:
    say({"report": line})


async def own_a_stack() -> None:
    async with devstack(report=report) as stack:
        servers = [stack.weather, stack.postgresql, stack.redis, stack.rabbitmq]
        say({"up": str(stack.folder), "ports": [port for server in servers for port in server.ports]})
        await asyncio.Event().wait()


async def own_one(kind: type[Server]) -> None:
    with temporary_data_dir(report=report) as folder:
        async with kind(folder / "server", report=report) as server:
            say({"up": str(folder), "ports": server.ports})
            await asyncio.Event().wait()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it runs in the background ignore it
    kinds: dict[str, type[Server]] = {"postgresql": PostgreSQLServer, "redis": RedisServer}
    asyncio.run(own_one(kinds[sys.argv[1]]) if len(sys.argv) > 1 else own_a_stack())
