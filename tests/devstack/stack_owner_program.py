"""A program that runs a stack until a signal: `python stack_owner_program.py [postgresql | redis]`.

With an argument it runs only that server. It prints lines of JSON: each report, and then the folder and the ports.
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


def print_json(line: Mapping[str, object]) -> None:
    print(json.dumps(line), flush=True)  # noqa: T201


def report(line: str) -> None:
    print_json({"report": line})


async def run_stack() -> None:
    async with devstack(report=report) as stack:
        ports = [port for server in stack.by_name.values() for port in server.ports]
        print_json({"folder": str(stack.folder), "ports": ports})
        await asyncio.Event().wait()


async def run_server(kind: type[Server]) -> None:
    with temporary_data_dir(report=report) as folder:
        async with kind(folder / "server", report=report) as server:
            print_json({"folder": str(folder), "ports": server.ports})
            await asyncio.Event().wait()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process of a shell ignores it otherwise
    kinds: dict[str, type[Server]] = {"postgresql": PostgreSQLServer, "redis": RedisServer}
    asyncio.run(run_server(kinds[sys.argv[1]]) if len(sys.argv) > 1 else run_stack())
