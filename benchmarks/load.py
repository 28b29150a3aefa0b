"""The load generator: a child process that sends requests in a closed loop and checks every response.

`python -m benchmarks.load` reads a `LoadSpec` as JSON and writes a `LoadResult`. After a wrong response it exits with
status 1 and writes the reason to stderr.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from math import ceil

import uvloop
from pydantic import BaseModel, Field

from benchmarks import workloads
from benchmarks.closed_loop import ClosedLoopConnection, LoadState
from benchmarks.overload import OverloadState, seconds_to_recover
from benchmarks.process_stats import cpu_seconds, machine_cpu_seconds, peak_memory_mib
from benchmarks.workloads import CheckedRequest, SeededPlace, Workload, WrongResponseError

PRIMING_CONNECTIONS = 32  # without weather in its cache, a server can take less load


class LoadSpec(BaseModel):
    """The load of one measurement. All durations are in seconds.

    Attributes:
        workload: the kind of request.
        port: the server on loopback.
        connections: open connections, each with one request in flight.
        places: the places that the requests are about.
        each_once: request each place only once, because the second response would come from a cache.
        prime: request the brief of each place before the warm-up, so that all weather is cached.
        places_per_call: the number of places in a request for several briefs.
        response_timeout: None, or a time that makes the load an overload: responses that are later, incomplete or refused are
            counted, instead of ending the load.
        warm_up: duration of the load before the measurement.
        duration: duration of the measurement.
        seed: of the order of the requests.
        processes: ids of the processes whose CPU time is measured, by name.
    """

    workload: Workload
    port: int
    connections: int
    places: list[SeededPlace] = Field(default_factory=list)
    each_once: bool = False
    prime: bool = False
    places_per_call: int = 1
    response_timeout: float | None = None
    warm_up: float
    duration: float
    seed: int
    processes: dict[str, list[int]] = Field(default_factory=dict)


class LoadResult(BaseModel):
    """The result of one measurement.

    Attributes:
        responses: the number of responses, without refused ones.
        requests_per_second: requests per second that got a right response, in an overload those in time.
        p50_ms: median latency.
        p99_ms: 99th percentile of the latency.
        refused_per_second: requests per second that were refused, or whose connection was closed. Only an overload may have them, and the late ones.
        late_per_second: requests per second whose response was late or incomplete.
        recovery_s: after an overload, seconds until the briefs of one client are in time again.
        peak_memory_mib: the highest RSS of the application since it started.
        cpu_us: CPU time per response in microseconds, by the names in `LoadSpec.processes`; `load` is the load generator,
            `machine` the whole machine.
        cores: the same CPU time in seconds per second: 1 is one fully used core.
    """

    responses: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    refused_per_second: float = 0
    late_per_second: float = 0
    recovery_s: float | None = None
    peak_memory_mib: float = 0
    cpu_us: dict[str, float]
    cores: dict[str, float]


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that is not exceeded by at least `share` of all values.

    Args:
        ordered: at least one value, in ascending order.
        share: from 0 to 1.
    """
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


async def apply_load(spec: LoadSpec) -> LoadResult:
    """Send requests as `spec` describes and measure the responses.

    Raises:
        WrongResponseError: a response is wrong or missing, or `places` are too few for `each_once`.
        OSError: a server refuses the connection.
    """
    if spec.prime:
        async with _connections(
            LoadState(), spec.port, PRIMING_CONNECTIONS, map(workloads.brief, spec.places)
        ) as state:
            await state.wait_until_idle()
    requests = workloads.random_requests(
        spec.workload, spec.places, places_per_call=spec.places_per_call, each_once=spec.each_once, seed=spec.seed
    )
    new_state = LoadState() if spec.response_timeout is None else OverloadState(spec.response_timeout)
    async with _connections(new_state, spec.port, spec.connections, requests) as state:
        await state.sleep(spec.warm_up)
        cpu_before, started_at = _cpu_seconds(spec.processes), time.perf_counter()
        state.measuring = True
        await state.sleep(spec.duration)
        state.measuring = False
        cpu_after, elapsed = _cpu_seconds(spec.processes), time.perf_counter() - started_at
        if next(requests, None) is None:
            raise WrongResponseError("all places were requested before the end of the measurement: add places")
        state.stop()
        if isinstance(state, OverloadState):
            recovery_s = await seconds_to_recover(spec.port, requests)
        else:
            recovery_s = None
            await state.wait_until_idle()
        result = _result(state, elapsed, {name: cpu_after[name] - cpu_before[name] for name in cpu_before})
    peak_memory = peak_memory_mib(spec.processes.get("application", ()))
    return result.model_copy(update={"recovery_s": recovery_s, "peak_memory_mib": peak_memory})


@asynccontextmanager
async def _connections(
    state: LoadState, port: int, number: int, requests: Iterator[CheckedRequest]
) -> AsyncIterator[LoadState]:
    """Open connections that send requests inside the block."""
    state.requests = requests
    connections = [ClosedLoopConnection(state, port) for _ in range(number)]
    try:
        await asyncio.gather(*(connection.start() for connection in connections))
        yield state
    finally:
        for connection in connections:
            connection.close()


def _cpu_seconds(processes: Mapping[str, Sequence[int]]) -> dict[str, float]:
    return {name: cpu_seconds(pids) for name, pids in processes.items()} | {
        "load": time.process_time(),
        "machine": machine_cpu_seconds(),
    }


def _result(state: LoadState, elapsed: float, cpu: Mapping[str, float]) -> LoadResult:
    if not state.latencies:
        raise WrongResponseError(f"no response in {elapsed:.1f} s")
    ordered = sorted(state.latencies)
    return LoadResult(
        responses=len(ordered),
        **state.rates(elapsed),
        p50_ms=percentile(ordered, 0.5) * 1e3,
        p99_ms=percentile(ordered, 0.99) * 1e3,
        cpu_us={name: seconds / len(ordered) * 1e6 for name, seconds in cpu.items()},
        cores={name: seconds / elapsed for name, seconds in cpu.items()},
    )


def main() -> None:
    """Read the spec from stdin and write the result to stdout."""
    spec = LoadSpec.model_validate_json(sys.stdin.buffer.read())
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            result = runner.run(apply_load(spec))
    except (WrongResponseError, OSError) as error:
        sys.exit(str(error))
    sys.stdout.write(result.model_dump_json())


if __name__ == "__main__":
    main()
