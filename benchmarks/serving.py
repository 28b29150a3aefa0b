"""A contender as a child process that ends with the benchmark, and the time that its imports alone would take."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.contender_registry import Contender
from gateway.devstack import ports
from gateway.devstack.server import DevstackError
from gateway.devstack.stack import Devstack

START_TIMEOUT = 30.0  # until the first response
STOP_TIMEOUT = 35.0  # from SIGTERM to SIGKILL: longer than the gateway's own shutdown timeout

# The libraries that a gateway of this kind is made of. Its start cannot take less time than their imports.
LIBRARIES = ("fastapi", "uvicorn", "httpx", "sqlalchemy.ext.asyncio", "asyncpg", "redis.asyncio", "aio_pika")

_POLL_INTERVAL = 0.005  # an upper bound on the error of `first_response_s`
_MAX_LOG_CHARS = 2000
_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A contender that serves requests.

    Attributes:
        port: its port on loopback.
        pid: its process id.
        first_response_s: seconds from its start to its first response.
    """

    port: int
    pid: int
    first_response_s: float


@asynccontextmanager
async def serving(contender: Contender, servers: Devstack, brief_path: str) -> AsyncIterator[RunningServer]:
    """Run a contender inside the block.

    Args:
        contender: the server to start.
        servers: the backends that it uses.
        brief_path: the request that shows that it is ready, if `contender.ready_path` is None.

    Raises:
        DevstackError: the process exits, or does not respond in `START_TIMEOUT`.
    """
    log = servers.folder / f"{contender.name}.log"
    with closing(ports.reserve()) as reservation, log.open("wb") as output:
        port = reservation.getsockname()[1]
        started_at = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603, ASYNC220 - our own command, and it returns immediately
            contender.command(port),
            cwd=_ROOT,
            env=os.environ | servers.environment() | contender.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            await _wait_until_ready(f"http://127.0.0.1:{port}{contender.ready_path or brief_path}", process, log)
            yield RunningServer(port, process.pid, time.perf_counter() - started_at)
        finally:
            await _stop(process)


async def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    async with httpx.AsyncClient(trust_env=False, timeout=START_TIMEOUT) as client:
        while True:
            try:
                response = await client.get(url)
                if response.is_success:
                    return
                last_error = response.text
            except httpx.TransportError as error:
                last_error = repr(error)
            if process.poll() is not None or time.monotonic() > deadline:
                raise _start_error(process, last_error, log)
            await asyncio.sleep(_POLL_INTERVAL)


def _start_error(process: subprocess.Popen[bytes], last_error: str, log: Path) -> DevstackError:
    return DevstackError(f"{process.args!r} does not serve: {last_error}\n{log.read_text()[-_MAX_LOG_CHARS:]}")


async def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    deadline = time.monotonic() + STOP_TIMEOUT
    try:
        while process.poll() is None and time.monotonic() < deadline:  # noqa: ASYNC110 - a process sets no event
            await asyncio.sleep(_POLL_INTERVAL)
    finally:
        process.kill()
        process.wait()


async def seconds_to_import_libraries() -> float:
    """Return the seconds from the start to the end of a process that imports `LIBRARIES` and does nothing else."""
    started_at = time.perf_counter()
    imports = f"import os, {', '.join(LIBRARIES)}\nos._exit(0)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", imports)
    if await process.wait():
        raise DevstackError(f"the imports failed with status {process.returncode}")
    return time.perf_counter() - started_at
