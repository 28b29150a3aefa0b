"""The load generator: a child process that sends requests in a closed loop and checks every response.

`python -m benchmarks.load` reads a `LoadSpec` as JSON and writes a `LoadResult`. After a wrong response it exits with
status 1 and writes the reason to stderr.
"""

import asyncio
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from math import ceil

import uvloop
from pydantic import BaseModel, Field

from benchmarks import workloads
from benchmarks.closed_loop import ClosedLoopConnection, LoadState
from benchmarks.process_stats import cpu_seconds, machine_cpu_seconds
from benchmarks.workloads import CheckedRequest, SeededPlace, Workload, WrongResponseError


class LoadSpec(BaseModel):
    """The load of one measurement. All durations are in seconds.

    Attributes:
        workload: the kind of request.
        ports: the servers on loopback; the connections are distributed over them.
        connections: open connections, each with one request in flight.
        places: the places that the requests are about.
        each_once: request each place only once, because the second response would come from a cache.
        prime: request the brief of each place before the warm-up, so that all weather is cached.
        places_per_call: the number of places in a request for several briefs.
        warm_up: duration of the load before the measurement.
        duration: duration of the measurement.
        seed: of the order of the requests.
        processes: ids of the processes whose CPU time is measured, by name.
    """

    workload: Workload
    ports: list[int]
    connections: int
    places: list[SeededPlace] = Field(default_factory=list)
    each_once: bool = False
    prime: bool = False
    places_per_call: int = 1
    warm_up: float
    duration: float
    seed: int
    processes: dict[str, list[int]] = Field(default_factory=dict)


class LoadResult(BaseModel):
    """The result of one measurement.

    Attributes:
        responses: the number of responses.
        requests_per_second: completed requests per second.
        p50_ms: median latency.
        p99_ms: 99th percentile of the latency.
        cpu_us: CPU time per response in microseconds, by the names in `LoadSpec.processes`; `load` is the load generator,
            `machine` the whole machine.
        cores: the same CPU time in seconds per second: 1 is one fully used core.
    """

    responses: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
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
    state = LoadState()
    connections = [await _connect(state, spec.ports[number % len(spec.ports)]) for number in range(spec.connections)]

    def send(requests: Iterator[CheckedRequest]) -> None:
        state.requests = requests
        state.idle.clear()
        for connection in connections:
            connection.send_next()

    try:
        if spec.prime:
            send(map(workloads.brief, spec.places))
            await state.wait_until_idle()
        requests = _in_random_order(spec)
        send(requests)
        await state.sleep(spec.warm_up)
        cpu_before, started_at = _cpu_seconds(spec.processes), time.perf_counter()
        state.measuring = True
        await state.sleep(spec.duration)
        state.measuring = False
        cpu_after, elapsed = _cpu_seconds(spec.processes), time.perf_counter() - started_at
        if next(requests, None) is None:
            raise WrongResponseError("all places were requested before the end of the measurement: add places")
        state.requests = iter(())
        if state.in_flight:
            await state.wait_until_idle()
        return _result(state.latencies, elapsed, {name: cpu_after[name] - cpu_before[name] for name in cpu_before})
    finally:
        for connection in connections:
            connection.close()


async def _connect(state: LoadState, port: int) -> ClosedLoopConnection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: ClosedLoopConnection(state), "127.0.0.1", port)
    return connection


def _in_random_order(spec: LoadSpec) -> Iterator[CheckedRequest]:
    requests = workloads.build_requests(spec.workload, spec.places, spec.places_per_call)
    if spec.each_once:  # successive requests for several briefs overlap in all places but one
        requests = requests[:: spec.places_per_call]
    generator = random.Random(spec.seed)  # noqa: S311 - the same order in every run
    generator.shuffle(requests)
    return iter(requests) if spec.each_once else _endless_choices(requests, generator)


def _endless_choices(requests: Sequence[CheckedRequest], generator: random.Random) -> Iterator[CheckedRequest]:
    while True:
        yield generator.choice(requests)


def _cpu_seconds(processes: Mapping[str, Sequence[int]]) -> dict[str, float]:
    return {name: cpu_seconds(pids) for name, pids in processes.items()} | {
        "load": time.process_time(),
        "machine": machine_cpu_seconds(),
    }


def _result(latencies: Sequence[float], elapsed: float, cpu: Mapping[str, float]) -> LoadResult:
    if not latencies:
        raise WrongResponseError(f"no response in {elapsed:.1f} s")
    ordered = sorted(latencies)
    return LoadResult(
        responses=len(ordered),
        requests_per_second=len(ordered) / elapsed,
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
