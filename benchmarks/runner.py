"""One run: everything is started, and measured in turns, so that a slow minute of the machine is everybody's."""

import asyncio
import os
import platform
import re
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx
from pydantic import BaseModel

from benchmarks import contender_registry
from benchmarks.backends import Backends, backends
from benchmarks.cases import CASES, OUTBOX, Case
from benchmarks.contender_registry import CONTENDERS, GATEWAY, IN_NODE
from benchmarks.load import Order, Tally
from benchmarks.measure import memory_mib
from benchmarks.serving import Served, serving
from benchmarks.workloads import WrongAnswerError
from gateway.devstack.folder import Reporter

WARM_UP = 0.5
"""Seconds."""

STARTS = 5
RECOVERY_LIMIT = 10.0
"""Seconds until a brief is whole again after its upstream is back."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How much to measure."""

    rounds: int
    seconds: float
    only: str
    """A pattern for the names of cases."""

    def wants(self, case: Case) -> bool:
        return re.search(self.only, case.name) is not None


class Run(BaseModel):
    """All that was measured, and where."""

    began: datetime
    machine: dict[str, str]
    rounds: int
    seconds: float
    places: int
    """That warm briefs are asked of."""
    not_run: dict[str, str]
    """Contenders that could not be, and why."""
    first_answers_s: list[float]
    """Seconds from the start of `gateway serve` to its first brief, each time."""
    memory_mib: dict[str, float]
    """RSS after the start and one answer, by contender."""
    tallies: dict[str, list[Tally]]
    """By case."""


async def run(options: Options, *, report: Reporter) -> Run:
    """Measure.

    Raises:
        WrongAnswerError: a contender gave one.
        DevstackError: a server or a contender cannot be had.
    """
    began = datetime.now(UTC)
    why_no_node = await asyncio.to_thread(contender_registry.prepare_node)
    not_run = {} if why_no_node is None else {contender.name: why_no_node for contender in IN_NODE}
    cases = [case for case in (*CASES, *OUTBOX) if options.wants(case)]
    cases = [case for case in cases if not any(contender.name in not_run for contender in case.asked)]
    async with backends(report=report) as ours, AsyncExitStack() as stack:
        example = f"/v1/places/{ours.places[0].id}/brief"
        first_answers = []
        for _ in range(STARTS):
            async with serving(GATEWAY, ours.servers, example) as served:
                first_answers.append(served.first_answer_s)
        contenders: dict[str, Served] = {}
        for contender in CONTENDERS:
            if any(contender in case.asked for case in cases):
                contenders[contender.name] = await stack.enter_async_context(serving(contender, ours.servers, example))
                report(f"{contender.name}: serves")
        return Run(
            began=began,
            machine=await machine(ours),
            rounds=options.rounds,
            seconds=options.seconds,
            places=len(ours.few),
            not_run=not_run,
            first_answers_s=first_answers,
            memory_mib={name: memory_mib([served.pid]) for name, served in contenders.items()},
            tallies=await _in_rounds(cases, contenders, ours, options, report),
        )


async def _in_rounds(
    cases: Sequence[Case], contenders: dict[str, Served], ours: Backends, options: Options, report: Reporter
) -> dict[str, list[Tally]]:
    tallies: dict[str, list[Tally]] = {case.name: [] for case in cases}
    for number in range(options.rounds):
        for case in cases:
            served = [contenders[contender.name] for contender in case.asked]
            async with _state(case, served, ours):
                tally = await _measure(_order(case, served, ours, options.seconds, seed=number), case.name, ours)
            tallies[case.name].append(tally)
            report(
                f"{number + 1}/{options.rounds} {case.name:32} {tally.per_second:8.0f}/s "
                f"p50 {tally.p50_ms:7.2f} p99 {tally.p99_ms:7.2f} ms"
            )
    return tallies


@asynccontextmanager
async def _state(case: Case, served: Sequence[Served], ours: Backends) -> AsyncIterator[None]:
    """Bring the backends into the state of a case, and back."""
    await ours.forget_the_weather()
    async with AsyncExitStack() as stack:
        if case.upstream_s:
            await stack.enter_async_context(ours.upstream_that_takes(case.upstream_s))
        if case.outbox is not None:
            await stack.enter_async_context(ours.outbox_of(case.outbox))
        if case.upstream_dead:
            await stack.enter_async_context(ours.servers.weather.killed())
        yield
    if case.kind == "observation":
        await ours.until_the_outbox_is_empty()
    if case.upstream_dead:
        for one in served:
            await _until_whole(f"http://127.0.0.1:{one.port}/v1/places/{ours.places[0].id}/brief")


def _order(case: Case, served: Sequence[Served], ours: Backends, seconds: float, *, seed: int) -> Order:
    return Order(
        kind=case.kind,
        ports=[one.port for one in served] or [ours.servers.weather.port],
        connections=case.connections,
        places=ours.places if case.cold else ours.few,
        each_once=case.cold,
        prime=case.kind in {"brief", "briefs"} and case.caches and not case.cold,
        places_in_a_call=case.places_in_a_call,
        warm_up=WARM_UP * case.stretch,
        seconds=seconds * case.stretch,
        seed=seed,
        processes=ours.pids() | {"application": [one.pid for one in served]},
    )


async def _measure(order: Order, name: str, ours: Backends) -> Tally:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.load"),
        env=os.environ | ours.servers.environment(),  # so that it ends with the servers, should we be killed
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        told, wrong = await process.communicate(order.model_dump_json().encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise WrongAnswerError(f"{name}: {wrong.decode(errors='replace')}")
    return Tally.model_validate_json(told)


async def _until_whole(url: str) -> None:
    async with asyncio.timeout(RECOVERY_LIMIT), httpx.AsyncClient(trust_env=False) as client:
        while not (await client.get(url)).json()["complete"]:  # noqa: ASYNC110 - a server sets no event
            await asyncio.sleep(0.1)


async def machine(ours: Backends) -> dict[str, str]:
    """What it was measured on."""
    async with ours.servers.postgresql.superuser() as connection:
        postgresql = await connection.fetchval("SHOW server_version")
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "Python": platform.python_version(),
        "Node": await _node_version(),
        "PostgreSQL": str(postgresql).split()[0],
    }


async def _node_version() -> str:
    try:
        process = await asyncio.create_subprocess_exec("node", "--version", stdout=asyncio.subprocess.PIPE)
    except OSError:
        return "none"
    told, _ = await process.communicate()
    return told.decode().strip()
