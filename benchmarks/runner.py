"""One run: start all servers and measure the cases in turns, so that a slow minute of the machine affects all contenders."""

import asyncio
import os
import platform
import re
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx

from benchmarks.backends import Backends, running_backends
from benchmarks.cases import ROUND, Case
from benchmarks.contender_registry import (
    CONTENDERS,
    GATEWAY,
    NODE_CONTENDERS,
    Contender,
    install_node_packages,
)
from benchmarks.load import LoadResult, LoadSpec
from benchmarks.process_stats import memory_mib
from benchmarks.results import BenchmarkRun
from benchmarks.serving import RunningServer, seconds_to_import_libraries, serving
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
    cases = [
        case
        for case in ROUND
        if options.selects(case) and (case.contender is None or case.contender.name not in not_run)
    ]
    async with running_backends(report=report) as backends:
        imports_s, first_response_s = await _measure_starts(backends)
        measurement = _Measurement(backends, options, report)
        await measurement.measure_side_by_side([case for case in cases if not case.alone])
        await measurement.measure_alone([case for case in cases if case.alone])
        return BenchmarkRun(
            started_at=started_at,
            machine=await _describe_machine(backends),
            rounds=options.rounds,
            seconds=options.seconds,
            places=len(backends.warm_places),
            not_run=not_run,
            imports_s=imports_s,
            first_response_s=first_response_s,
            memory_mib=measurement.memory_mib,
            results=measurement.results,
        )


async def _measure_starts(backends: Backends) -> tuple[list[float], list[float]]:
    """Return the seconds to import the libraries, and those from the start of the gateway to its first response."""
    imports_s, first_response_s = [], []
    for _ in range(MEASURED_STARTS):
        imports_s.append(await seconds_to_import_libraries())
        async with serving(GATEWAY, backends.servers, backends.brief_path) as server:
            first_response_s.append(server.first_response_s)
    return imports_s, first_response_s


class _Measurement:
    """The rounds of a run, and their results.

    Attributes:
        results: the measurements in their order, by case.
        memory_mib: RSS after the start and one response, by contender.
    """

    def __init__(self, backends: Backends, options: Options, report: Reporter) -> None:
        self.results: defaultdict[str, list[LoadResult]] = defaultdict(list)
        self.memory_mib: dict[str, float] = {}
        self._backends = backends
        self._options = options
        self._report = report

    async def measure_side_by_side(self, cases: Sequence[Case]) -> None:
        """Measure cases whose contenders all run at the same time."""
        async with AsyncExitStack() as stack:
            servers: dict[str, RunningServer] = {}
            for contender in CONTENDERS:
                if any(case.contender is contender for case in cases):
                    servers[contender.name] = await stack.enter_async_context(self._serving(contender))
            for number in range(self._options.rounds):
                for case in cases:
                    server = None if case.contender is None else servers[case.contender.name]
                    await self._measure(case, server, number)

    async def measure_alone(self, cases: Sequence[Case]) -> None:
        """Measure cases whose contender runs while no other one does."""
        for number in range(self._options.rounds):
            for case in cases:
                if case.contender is not None:
                    async with self._serving(case.contender) as server:
                        await self._measure(case, server, number)

    @asynccontextmanager
    async def _serving(self, contender: Contender) -> AsyncIterator[RunningServer]:
        async with serving(contender, self._backends.servers, self._backends.brief_path) as server:
            self._report(f"{contender.name}: ready")
            self.memory_mib.setdefault(contender.name, memory_mib([server.pid]))
            yield server

    async def _measure(self, case: Case, server: RunningServer | None, number: int) -> None:
        """Measure a case in round `number`, which begins with 0. Without a server, the upstream is measured."""
        async with _prepared(case, self._backends):
            spec = _load_spec(case, server, self._backends, self._options.seconds, seed=number)
            result = await _run_load(spec, case.name, self._backends)
        if case.upstream_down and server is not None:
            await _wait_until_complete(f"http://127.0.0.1:{server.port}{self._backends.brief_path}")
        self.results[case.name].append(result)
        self._report(
            f"{number + 1}/{self._options.rounds} {case.name:32} {result.requests_per_second:8.0f}/s "
            f"p50 {result.p50_ms:7.2f} p99 {result.p99_ms:7.2f} ms"
        )


@asynccontextmanager
async def _prepared(case: Case, backends: Backends) -> AsyncIterator[None]:
    """Bring the backends into the state that a case needs, and restore them after the block."""
    await backends.clear_weather_cache()
    async with AsyncExitStack() as stack:
        if case.upstream_delay:
            await stack.enter_async_context(backends.delayed_upstream(case.upstream_delay))
        if case.upstream_down:
            await stack.enter_async_context(backends.servers.weather.killed())
        yield
    if case.workload == "observation":
        await backends.wait_until_outbox_is_empty()


def _load_spec(case: Case, server: RunningServer | None, backends: Backends, seconds: float, *, seed: int) -> LoadSpec:
    return LoadSpec(
        workload=case.workload,
        port=backends.servers.weather.port if server is None else server.port,
        connections=case.connections,
        places=backends.places if case.cold else backends.warm_places,
        each_once=case.cold,
        prime=case.workload in {"brief", "briefs"} and case.caches_weather and not case.cold,
        places_per_call=case.places_per_call,
        response_timeout=case.response_timeout,
        warm_up=WARM_UP * case.duration_factor,
        duration=seconds * case.duration_factor,
        seed=seed,
        processes=backends.pids() | {"application": [] if server is None else [server.pid]},
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
        "system": platform.freedesktop_os_release()["PRETTY_NAME"],
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
