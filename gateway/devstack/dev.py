"""`gateway dev`: the gateway and its worker, served from private servers of its own, and gone without a trace at Ctrl-C."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx

from gateway.devstack.folder import Reporter
from gateway.devstack.stack import Devstack, devstack
from gateway.places.seed import seed
from gateway.process.listener import bind_socket, url_of
from gateway.schema.migrate import migrate

EXAMPLE = "/v1/places/2657896/brief"
"""The brief of Zürich."""

_START_LIMIT = 40.0  # seconds: more than the gateway's own bound
_STOP_LIMIT = 35.0
_PAUSE = 0.05


async def dev(host: str, port: int, *, report: Reporter, debug: bool = False) -> int:
    """Serve until SIGINT, SIGTERM or SIGHUP, or until the gateway ends by itself. Return the exit status.

    Raises:
        PortTakenError: the port cannot be had.
        DevstackError: a server cannot be had. None is left running.
    """
    loop = asyncio.get_running_loop()
    life = asyncio.create_task(_life(host, port, report, debug=debug))
    asked: list[int] = []

    def stop(number: int) -> None:
        asked.append(number)
        if len(asked) == 1:
            life.cancel()
            report("stopping: the gateway first, then the servers in reverse")

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number)
    try:
        return await life
    except asyncio.CancelledError:
        return 0


async def _life(host: str, port: int, report: Reporter, *, debug: bool) -> int:
    with bind_socket(host, port) as listener:  # before the servers take their seconds
        url, port = url_of(listener), listener.getsockname()[1]
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(devstack(report=report))
        report(f"migrate: {await migrate(servers.postgresql.url)}")
        report(f"seed: {await seed(servers.postgresql.url)}")
        command = ["serve", "--host", host, "--port", str(port), "--timeline", *(["--debug"] if debug else [])]
        # Entered first, the worker ends last, and works in what the gateway publishes while it stops.
        worker = await stack.enter_async_context(_command(["worker", *(["--debug"] if debug else [])], servers))
        gateway = await stack.enter_async_context(_command(command, servers))
        if await _answers(f"{url}/readyz", gateway):
            report(f"ready after {time.monotonic() - began:.1f} s; try:\n\n    curl {url}{EXAMPLE}\n\nCtrl-C ends it.")
        return await _first_ended(gateway, worker)


@asynccontextmanager
async def _command(command: list[str], servers: Devstack) -> AsyncIterator[subprocess.Popen[bytes]]:
    """Run a command of ours as a child, in a session of its own: Ctrl-C is for us, and we stop it in its turn."""
    process = subprocess.Popen(  # noqa: S603, ASYNC220 - it returns at once
        [sys.executable, "-m", "gateway", *command],
        env=os.environ | servers.environment(),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                async with asyncio.timeout(_STOP_LIMIT):
                    await _ended(process)
            finally:
                process.kill()
                process.wait()


async def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    """Wait until the gateway answers. False: it ended instead, and has said why."""
    async with asyncio.timeout(_START_LIMIT), httpx.AsyncClient(trust_env=False) as client:
        while process.poll() is None:
            try:
                if (await client.get(url)).is_success:
                    return True
            except httpx.TransportError:
                pass
            await asyncio.sleep(_PAUSE)
    return False


async def _first_ended(*processes: subprocess.Popen[bytes]) -> int:
    """Wait until one of them ends; return its status."""
    while not (ended := [process for process in processes if process.poll() is not None]):  # noqa: ASYNC110
        await asyncio.sleep(_PAUSE)
    return ended[0].returncode


async def _ended(process: subprocess.Popen[bytes]) -> int:
    while process.poll() is None:  # noqa: ASYNC110 - a process sets no event
        await asyncio.sleep(_PAUSE)
    return process.returncode
