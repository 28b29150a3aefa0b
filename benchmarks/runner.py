"""One run: start all servers and measure the cases in turns, so that a slow minute of the machine affects all contenders."""

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

from benchmarks.backends import Backends, running_backends
from benchmarks.cases import ROUND, Case
from benchmarks.contender_registry import CONTENDERS, GATEWAY, NODE_CONTENDERS, install_node_packages
from benchmarks.load import LoadResult, LoadSpec
from benchmarks.process_stats import memory_mib
from benchmarks.results import BenchmarkRun
from benchmarks.serving import RunningServer, serving
from benchmarks.workloads import WrongResponseError
from gateway.devstack.folder import Reporter

WARM_UP = 0.5
MEASURED_STARTS = 5
RECOVERY_TIMEOUT = 10.0  # until a brief is complete after the restart of the upstream


@dataclass(frozen=True, kw_only=True)
class Options:
    """The extent of a run.

    Attributes:
        rounds: how many rounds are measured.
        seconds: the duration of a measurement.
        only: a regular expression that the names of the cases are searched for.
    """

    rounds: int
    seconds: float
    only: str

    def selects(self, case: Case) -> bool:
        return re.search(self.only, case.name) is not None


async def run(options: Options, *, report: Reporter) -> BenchmarkRun:
    """Measure all selected cases.

    Raises:
        WrongResponseError: a contender sent a wrong response.
        DevstackError: a server or a contender does not start.
    """
    started_at = datetime.now(UTC)
    no_node_reason = await asyncio.to_thread(install_node_packages)
    not_run = {} if no_node_reason is None else {contender.name: no_node_reason for contender in NODE_CONTENDERS}
    cases = [case for case in ROUND if options.selects(case)]
    cases = [case for case in cases if not any(contender.name in not_run for contender in case.contenders)]
    async with running_backends(report=report) as backends, AsyncExitStack() as stack:
        brief_path = f"/v1/places/{backends.places[0].id}/brief"
        first_response_s = []
        for _ in range(MEASURED_STARTS):
            async with serving(GATEWAY, backends.servers, brief_path) as server:
                first_response_s.append(server.first_response_s)
        servers: dict[str, RunningServer] = {}
        for contender in CONTENDERS:
            if any(contender in case.contenders for case in cases):
                server = await stack.enter_async_context(serving(contender, backends.servers, brief_path))
                servers[contender.name] = server
                report(f"{contender.name}: ready")
        return BenchmarkRun(
            started_at=started_at,
            machine=await _describe_machine(backends),
            rounds=options.rounds,
            seconds=options.seconds,
            places=len(backends.warm_places),
            not_run=not_run,
            first_response_s=first_response_s,
            memory_mib={name: memory_mib([server.pid]) for name, server in servers.items()},
            results=await _measure_rounds(cases, servers, backends, options, report),
        )


async def _measure_rounds(
    cases: Sequence[Case],
    running: dict[str, RunningServer],
    backends: Backends,
    options: Options,
    report: Reporter,
) -> dict[str, list[LoadResult]]:
    results: dict[str, list[LoadResult]] = {case.name: [] for case in cases}
    for number in range(options.rounds):
        for case in cases:
            servers = [running[contender.name] for contender in case.contenders]
            async with _prepared(case, servers, backends):
                spec = _load_spec(case, servers, backends, options.seconds, seed=number)
                result = await _run_load(spec, case.name, backends)
            results[case.name].append(result)
            report(
                f"{number + 1}/{options.rounds} {case.name:32} {result.requests_per_second:8.0f}/s "
                f"p50 {result.p50_ms:7.2f} p99 {result.p99_ms:7.2f} ms"
            )
    return results


@asynccontextmanager
async def _prepared(case: Case, servers: Sequence[RunningServer], backends: Backends) -> AsyncIterator[None]:
    """Bring the backends into the state that a case needs, and restore them after the block."""
    await backends.clear_weather_cache()
    async with AsyncExitStack() as stack:
        if case.upstream_delay:
            await stack.enter_async_context(backends.delayed_upstream(case.upstream_delay))
        if case.outbox_depth is not None:
            await stack.enter_async_context(backends.filled_outbox(case.outbox_depth))
        if case.upstream_down:
            await stack.enter_async_context(backends.servers.weather.killed())
        yield
    if case.workload == "observation":
        await backends.wait_until_outbox_is_empty()
    if case.upstream_down:
        for server in servers:
            await _wait_until_complete(f"http://127.0.0.1:{server.port}/v1/places/{backends.places[0].id}/brief")


def _load_spec(
    case: Case, servers: Sequence[RunningServer], backends: Backends, seconds: float, *, seed: int
) -> LoadSpec:
    return LoadSpec(
        workload=case.workload,
        ports=[server.port for server in servers] or [backends.servers.weather.port],
        connections=case.connections,
        places=backends.places if case.cold else backends.warm_places,
        each_once=case.cold,
        prime=case.workload in {"brief", "briefs"} and case.caches_weather and not case.cold,
        places_per_call=case.places_per_call,
        warm_up=WARM_UP * case.duration_factor,
        duration=seconds * case.duration_factor,
        seed=seed,
        processes=backends.pids() | {"application": [server.pid for server in servers]},
    )


async def _run_load(spec: LoadSpec, case_name: str, backends: Backends) -> LoadResult:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.load"),
        env=os.environ | backends.servers.environment(),  # so that it ends with the servers if this process is killed
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, error = await process.communicate(spec.model_dump_json().encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise WrongResponseError(f"{case_name}: {error.decode(errors='replace')}")
    return LoadResult.model_validate_json(output)


async def _wait_until_complete(url: str) -> None:
    async with asyncio.timeout(RECOVERY_TIMEOUT), httpx.AsyncClient(trust_env=False) as client:
        while not (await client.get(url)).json()["complete"]:  # noqa: ASYNC110 - a server sets no event
            await asyncio.sleep(0.1)


async def _describe_machine(backends: Backends) -> dict[str, str]:
    async with backends.servers.postgresql.superuser() as connection:
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
    output, _ = await process.communicate()
    return output.decode().strip()
