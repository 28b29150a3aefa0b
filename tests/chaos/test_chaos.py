"""Chaos: each server, a gateway and the worker have outages under load, one after the other."""

import asyncio
import json
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import aiohttp
import pytest
from redis.asyncio import Redis

from gateway.devstack import ports
from gateway.devstack.postgresql import RUNTIME_ROLE
from gateway.devstack.stack import Devstack
from gateway.places.seed import seed
from gateway.schema.migrate import migrate
from tests.chaos.clients import AcknowledgedWrites, Response, read, request, write
from tests.chaos.consistency_queries import (
    dead_letter_count,
    first_places,
    has_consumer,
    observation_counts,
    outbox_depth,
    poison_rows_without_an_attempt,
    wrong_or_missing,
)
from tests.chaos.oracle import violations
from tests.chaos.outages import (
    FaultFactory,
    ManagedProcess,
    Outages,
    inject_faults,
    killed_while_suspended,
    observations_locked,
    poison_rows,
    read_only,
    server_faults,
    wrong_queue,
)
from tests.chaos.replicated_database import Database, replicated_database
from tests.chaos.report import report
from tests.end_to_end.conftest import StartProcess
from tests.support.waiting import TIMEOUT, wait_until

READERS = 4
WRITERS = 4
REPLICAS = ("gateway-1", "gateway-2")

VIEWS_QUEUE = "gateway.brief-views"

CALM_SECONDS = 4.0  # at the end, without faults: all responses must be good then

SOAK_SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
SOAK_SEED = int(os.environ.get("SOAK_SEED", "2"))
SOAK_REPORT = os.environ.get("SOAK_REPORT")

# Berlin, Paris, Madrid, Rome, Vienna, Stockholm, Oslo, Helsinki, Copenhagen, London. No other test writes about them.
PLACES = [2950159, 2988507, 3117735, 3169070, 2761369, 2673730, 3143244, 658225, 2618425, 2643743]


Processes = dict[str, ManagedProcess]
Faults = dict[str, dict[str, FaultFactory]]


@asynccontextmanager
async def running_processes(start: StartProcess, **variables: str) -> AsyncIterator[Processes]:
    """Run two replicas of the gateway and a worker."""
    with ExitStack() as stack:
        processes = {"worker": ManagedProcess(partial(start, "worker", **variables), '"event": "working"')}
        for name in REPLICAS:
            port = stack.enter_context(ports.reserve()).getsockname()[1]
            command = partial(start, "serve", "--port", str(port), **variables)
            processes[name] = ManagedProcess(command, '"event": "serving"')
        await asyncio.gather(*(process.up() for process in processes.values()))
        yield processes


def outages_of_servers(servers: Devstack, database: Database, outages_of_database: dict[str, FaultFactory]) -> Faults:
    """Return the faults by which each server has an outage."""
    return {
        "postgresql": {**outages_of_database, "locked": observations_locked(database)},
        "redis": server_faults(servers.redis),
        "rabbitmq": server_faults(servers.rabbitmq) | {"killed": killed_while_suspended(servers.rabbitmq)},
        "weather": server_faults(servers.weather),
    }


async def test_half_a_minute_of_chaos(servers: Devstack, start: StartProcess) -> None:
    """In half a minute of outages no acknowledged observation is lost or counted twice, each brief names its missing sections
    correctly, and each error has an outage that explains it.
    """
    database = servers.postgresql
    faults = outages_of_servers(servers, database, server_faults(database))
    async with running_processes(start) as processes:
        await run_chaos(servers, database, processes, faults, seconds=30, seed=1)


@pytest.mark.soak
async def test_soak(servers: Devstack, start: StartProcess, devstack_folder: Path) -> None:
    """The claims of the short test hold for SOAK_SECONDS, ten minutes by default, with incidents that are no outage:
    the database switches over to its standby or is read-only, rows cannot be published, a queue has other arguments.
    """
    async with replicated_database(devstack_folder) as database:
        await migrate(database.primary.owner_url, grant_to=RUNTIME_ROLE)
        await seed(database.primary.owner_url)
        faults = outages_of_servers(servers, database, {"killed": database.killed, "suspended": database.suspended})
        faults["postgresql"] |= {
            "switched over": database.switched_over,
            "read-only": read_only(database),
            "poison rows": poison_rows(database),
        }
        faults["rabbitmq"]["wrong queue"] = wrong_queue(servers.rabbitmq, VIEWS_QUEUE)
        async with running_processes(start, GATEWAY_DATABASE__URL=database.url) as processes:
            text = await run_chaos(servers, database, processes, faults, seconds=SOAK_SECONDS, seed=SOAK_SEED)

            await wait_until(
                partial(has_consumer, servers, VIEWS_QUEUE), "the worker consumes the replaced queue again"
            )
            assert await poison_rows_without_an_attempt(database) == 0

    if SOAK_REPORT:
        save(text, Path(SOAK_REPORT))


def save(text: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


async def run_chaos(
    servers: Devstack, database: Database, processes: Processes, faults: Faults, *, seconds: float, seed: int
) -> str:
    """Inject faults under load, then check all claims. Return the report."""
    rng, outages = random.Random(seed), Outages()  # noqa: S311 - the same run each time
    reads: list[Response] = []
    writes = AcknowledgedWrites()
    counts_before = await observation_counts(database, PLACES)
    read_places = [*PLACES, *await first_places(database, 3000)]  # so many that not all have cached weather
    urls = {name: await processes[name].process.url() for name in REPLICAS}
    await cache_old_weather(servers, urls[REPLICAS[0]], read_places[::2])  # so that some weather is stale
    end = time.monotonic() + seconds
    process_faults = {name: processes[name].faults() for name in ("worker", REPLICAS[0])}
    async with asyncio.TaskGroup() as group:
        for targets in (faults, process_faults):
            group.create_task(inject_faults(targets, outages, rng, end))
        for _ in range(READERS):
            group.create_task(read(urls, read_places, rng, end + CALM_SECONDS, reads))
        for _ in range(WRITERS):
            group.create_task(write(urls, PLACES, rng, end + CALM_SECONDS, writes))
    try:
        await wait_until_all_are_counted(database, counts_before, writes)
    finally:
        text = report(outages, reads, writes.responses)
        print(text)  # noqa: T201 - pytest shows it with a failure

    assert await wrong_or_missing(database, writes) == []
    assert violations(reads, outages) == []
    assert [response for response in writes.responses if response.status not in {201, 409, 503, None}] == []
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
    database: Database, counts_before: Counter[int], writes: AcknowledgedWrites
) -> None:
    """Wait until the outbox is empty and the worker has counted each acknowledged observation exactly once."""
    expected = counts_before + Counter(writes.places.values())

    async def all_are_counted() -> bool:
        return await outbox_depth(database) == 0 and await observation_counts(database, PLACES) == expected

    try:
        await wait_until(
            all_are_counted, "the outbox is empty and each observation is counted once", timeout=2 * TIMEOUT
        )
    except AssertionError as error:
        counts, depth = await observation_counts(database, PLACES), await outbox_depth(database)
        raise AssertionError(
            f"in the end, {depth} events are in the outbox; counted too little: {dict(expected - counts)}, "
            f"too much: {dict(counts - expected)}"
        ) from error
    assert await observation_counts(database, PLACES) == expected, "an observation was counted again"
