"""A minute of chaos: each server, a gateway and the worker have outages under load, one after the other."""

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from redis.asyncio import Redis

from gateway.devstack import ports
from gateway.devstack.stack import Devstack
from tests.chaos.clients import AcknowledgedWrites, Response, read, request, write
from tests.chaos.consistency_queries import (
    dead_letter_count,
    first_places,
    observation_counts,
    outbox_depth,
    wrong_or_missing,
)
from tests.chaos.oracle import violations
from tests.chaos.outages import (
    ManagedProcess,
    Outages,
    inject_faults,
    killed_while_suspended,
    observations_locked,
    server_faults,
)
from tests.chaos.report import report
from tests.end_to_end.conftest import StartProcess
from tests.support.waiting import TIMEOUT, wait_until

READERS = 4
WRITERS = 4
REPLICAS = ("gateway-1", "gateway-2")

CALM_SECONDS = 4.0  # at the end, without faults: all responses must be good then

SOAK_SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
SOAK_SEED = int(os.environ.get("SOAK_SEED", "2"))
SOAK_REPORT = os.environ.get("SOAK_REPORT")

# Berlin, Paris, Madrid, Rome, Vienna, Stockholm, Oslo, Helsinki, Copenhagen, London. No other test writes about them.
PLACES = [2950159, 2988507, 3117735, 3169070, 2761369, 2673730, 3143244, 658225, 2618425, 2643743]


@pytest.fixture
async def processes(start: StartProcess) -> AsyncIterator[dict[str, ManagedProcess]]:
    """Two replicas of the gateway and a worker."""
    with ExitStack() as stack:
        processes = {"worker": ManagedProcess(partial(start, "worker"), '"event": "working"')}
        for name in REPLICAS:
            port = stack.enter_context(ports.reserve()).getsockname()[1]
            processes[name] = ManagedProcess(partial(start, "serve", "--port", str(port)), '"event": "serving"')
        await asyncio.gather(*(process.up() for process in processes.values()))
        yield processes


async def test_minute_of_chaos(servers: Devstack, processes: dict[str, ManagedProcess]) -> None:
    """In a minute of outages no acknowledged observation is lost or counted twice, each brief names its missing sections
    correctly, and each error has an outage that explains it.
    """
    await run_chaos(servers, processes, seconds=60, seed=1)


@pytest.mark.soak
async def test_soak(servers: Devstack, processes: dict[str, ManagedProcess]) -> None:
    """The claims of the minute of chaos hold for SOAK_SECONDS, ten minutes by default."""
    text = await run_chaos(servers, processes, seconds=SOAK_SECONDS, seed=SOAK_SEED)

    if SOAK_REPORT:
        save(text, Path(SOAK_REPORT))


def save(text: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


async def run_chaos(servers: Devstack, processes: dict[str, ManagedProcess], *, seconds: float, seed: int) -> str:
    """Inject outages under load, then check all claims. Return the report."""
    rng, outages = random.Random(seed), Outages()  # noqa: S311 - the same run each time
    reads: list[Response] = []
    writes = AcknowledgedWrites()
    counts_before = await observation_counts(servers, PLACES)
    read_places = [*PLACES, *await first_places(servers, 3000)]  # so many that not all have cached weather
    urls = {name: await processes[name].process.url() for name in REPLICAS}
    await cache_old_weather(servers, urls[REPLICAS[0]], read_places[::2])  # so that some weather is stale
    end = time.monotonic() + seconds
    server_targets = {
        "postgresql": server_faults(servers.postgresql) | {"locked": observations_locked(servers.postgresql)},
        "redis": server_faults(servers.redis),
        "rabbitmq": server_faults(servers.rabbitmq) | {"killed": killed_while_suspended(servers.rabbitmq)},
        "weather": server_faults(servers.weather),
    }
    process_targets = {name: processes[name].faults() for name in ("worker", REPLICAS[0])}
    async with asyncio.TaskGroup() as group:
        for targets in (server_targets, process_targets):
            group.create_task(inject_faults(targets, outages, rng, end))
        for _ in range(READERS):
            group.create_task(read(urls, read_places, rng, end + CALM_SECONDS, reads))
        for _ in range(WRITERS):
            group.create_task(write(urls, PLACES, rng, end + CALM_SECONDS, writes))
    try:
        await wait_until_all_are_counted(servers, counts_before, writes)
    finally:
        text = report(outages, reads, writes.responses)
        print(text)  # noqa: T201 - pytest shows it with a failure

    assert await wrong_or_missing(servers, writes) == []
    assert violations(reads, outages) == []
    assert [response for response in writes.responses if response.status not in {201, 503, None}] == []
    assert await dead_letter_count(servers) == 0
    for process in processes.values():
        process.assert_running()
    return text


async def cache_old_weather(servers: Devstack, url: str, place_ids: Sequence[int]) -> None:
    """Write weather of two hours ago for all places to Redis: a copy of the current weather of the first one."""
    first = f"weather:{place_ids[0]}"
    async with Redis.from_url(servers.redis.url) as redis, aiohttp.ClientSession() as session:

        async def is_cached() -> object:
            await request(session, url, "GET", f"{url}/v1/places/{place_ids[0]}/brief")
            return await redis.exists(first)

        await wait_until(is_cached, "the weather of the first place is cached")
        weather = json.loads(await redis.get(first) or b"")
        old = json.dumps(weather | {"fetched_at": weather["fetched_at"] - 7200})
        await redis.mset({f"weather:{place_id}": old for place_id in place_ids})


async def wait_until_all_are_counted(
    servers: Devstack, counts_before: Counter[int], writes: AcknowledgedWrites
) -> None:
    """Wait until the outbox is empty and the worker has counted each acknowledged observation exactly once."""
    expected = counts_before + Counter(writes.places.values())

    async def all_are_counted() -> bool:
        return await outbox_depth(servers) == 0 and await observation_counts(servers, PLACES) == expected

    try:
        await wait_until(
            all_are_counted, "the outbox is empty and each observation is counted once", timeout=2 * TIMEOUT
        )
    except AssertionError as error:
        counts, depth = await observation_counts(servers, PLACES), await outbox_depth(servers)
        raise AssertionError(
            f"in the end, {depth} events are in the outbox; counted too little: {dict(expected - counts)}, "
            f"too much: {dict(counts - expected)}"
        ) from error
    assert await observation_counts(servers, PLACES) == expected, "an observation was counted again"
