"""Running a contender as a process that ends with us, whatever happens."""

import asyncio
import os
import subprocess
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

START_LIMIT = 30.0
"""Seconds to the first answer."""

STOP_LIMIT = 35.0
"""Seconds from SIGTERM to SIGKILL: more than the gateway's own bound."""

_PAUSE = 0.005  # seconds between two looks, which the time to the first answer may be too long
_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Served:
    """A contender that serves."""

    port: int
    pid: int
    first_answer_s: float
    """Seconds from its start to its first answer."""


@asynccontextmanager
async def serving(contender: Contender, servers: Devstack, example: str) -> AsyncIterator[Served]:
    """Start a contender, and stop it in the end. `example` is the path of a brief.

    Raises:
        DevstackError: it ended, or did not answer in time.
    """
    log = servers.folder / f"{contender.name}.log"
    with closing(ports.reserve()) as holder, log.open("wb") as output:
        port = holder.getsockname()[1]
        began = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603, ASYNC220 - ours, and it returns at once
            contender.command(port),
            cwd=_ROOT,
            env=os.environ | servers.environment() | contender.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            await _until_it_answers(f"http://127.0.0.1:{port}{contender.ready or example}", process, log)
            yield Served(port, process.pid, time.perf_counter() - began)
        finally:
            await _end(process)


async def _until_it_answers(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT
    async with httpx.AsyncClient(trust_env=False, timeout=START_LIMIT) as client:
        while True:
            try:
                answer = await client.get(url)
                if answer.is_success:
                    return
                told = answer.text
            except httpx.TransportError as error:
                told = repr(error)
            if process.poll() is not None or time.monotonic() > deadline:
                raise _failure(process, told, log)
            await asyncio.sleep(_PAUSE)


def _failure(process: subprocess.Popen[bytes], told: str, log: Path) -> DevstackError:
    return DevstackError(f"{process.args!r} does not serve: {told}\n{log.read_text()[-2000:]}")


async def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    deadline = time.monotonic() + STOP_LIMIT
    try:
        while process.poll() is None and time.monotonic() < deadline:  # noqa: ASYNC110 - a process sets no event
            await asyncio.sleep(_PAUSE)
    finally:
        process.kill()
        process.wait()
