"""A minute of a bad day: everything that the gateway uses, and it itself, is broken under load, one after the other."""

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
from tests.chaos.clients import Seen, Written, ask, read, write
from tests.chaos.consistency_queries import any_places, counts, dead_letters, misfiled, outbox
from tests.chaos.oracle import lies
from tests.chaos.outages import (
    Outages,
    Program,
    break_one_after_another,
    killed_while_it_hangs,
    observations_locked,
    ways_to_break,
)
from tests.chaos.report import report
from tests.end_to_end.conftest import Start
from tests.support.waiting import TIMEOUT, wait_until

READERS = 4
WRITERS = 4
REPLICAS = ("gateway-1", "gateway-2")

CALM = 4.0
"""Seconds at the end in which all is well, and has to look so."""

SOAK_SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
SOAK_SEED = int(os.environ.get("SOAK_SEED", "2"))
SOAK_REPORT = os.environ.get("SOAK_REPORT")

PLACES = [2950159, 2988507, 3117735, 3169070, 2761369, 2673730, 3143244, 658225, 2618425, 2643743]
"""Berlin, Paris, Madrid, Rome, Vienna, Stockholm, Oslo, Helsinki, Copenhagen, London: no other test writes about them."""


@pytest.fixture
async def programs(start: Start) -> AsyncIterator[dict[str, Program]]:
    """Two replicas of the gateway and a worker."""
    with ExitStack() as stack:
        programs = {"worker": Program(partial(start, "worker"), '"event": "working"')}
        for name in REPLICAS:
            port = stack.enter_context(ports.reserve()).getsockname()[1]
            programs[name] = Program(partial(start, "serve", "--port", str(port)), '"event": "serving"')
        await asyncio.gather(*(program.up() for program in programs.values()))
        yield programs


async def test_on_a_bad_minute_nothing_acknowledged_is_lost_and_every_answer_is_true(
    servers: Devstack, programs: dict[str, Program]
) -> None:
    await bad_day(servers, programs, seconds=60, seed=1)


@pytest.mark.soak
async def test_on_a_bad_day_nothing_acknowledged_is_lost_and_every_answer_is_true(
    servers: Devstack, programs: dict[str, Program]
) -> None:
    text = await bad_day(servers, programs, seconds=SOAK_SECONDS, seed=SOAK_SEED)
    if SOAK_REPORT:
        keep(text, Path(SOAK_REPORT))


def keep(text: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


async def bad_day(servers: Devstack, programs: dict[str, Program], *, seconds: float, seed: int) -> str:
    """Break everything under load for a while, and then look into the books. Return what it was like."""
    chance, outages = random.Random(seed), Outages()  # noqa: S311 - the same day each time
    seen: list[Seen] = []
    written = Written()
    before = await counts(servers, PLACES)
    everywhere = [*PLACES, *await any_places(servers, 3000)]  # too many for their weather to be there already
    urls = {name: await programs[name].process.url() for name in REPLICAS}
    await give_old_weather(servers, urls[REPLICAS[0]], everywhere[::2])  # so that there is some to be stale
    end = time.monotonic() + seconds
    backends = {
        "postgresql": ways_to_break(servers.postgresql) | {"locked": observations_locked(servers.postgresql)},
        "redis": ways_to_break(servers.redis),
        "rabbitmq": ways_to_break(servers.rabbitmq) | {"killed": killed_while_it_hangs(servers.rabbitmq)},
        "weather": ways_to_break(servers.weather),
    }
    ours = {name: programs[name].ways_to_break() for name in ("worker", REPLICAS[0])}
    async with asyncio.TaskGroup() as group:
        for targets in (backends, ours):
            group.create_task(break_one_after_another(targets, outages, chance, end))
        for _ in range(READERS):
            group.create_task(read(urls, everywhere, chance, end + CALM, seen))
        for _ in range(WRITERS):
            group.create_task(write(urls, PLACES, chance, end + CALM, written))
    try:
        await all_is_counted(servers, before, written)
    finally:
        text = report(outages, seen, written.answers)
        print(text)  # noqa: T201 - what it was like, for whoever looks into a failure

    assert await misfiled(servers, written) == []
    assert lies(seen, outages) == []
    assert [answer for answer in written.answers if answer.status not in {201, 503, None}] == []
    assert await dead_letters(servers) == 0
    for program in programs.values():
        program.assert_running()
    return text


async def give_old_weather(servers: Devstack, url: str, place_ids: Sequence[int]) -> None:
    """Let Redis have weather of two hours ago: that which the first of the places has now."""
    first = f"weather:{place_ids[0]}"
    async with Redis.from_url(servers.redis.url) as redis, aiohttp.ClientSession() as session:

        async def is_kept() -> object:
            await ask(session, url, "GET", f"{url}/v1/places/{place_ids[0]}/brief")
            return await redis.exists(first)

        await wait_until(is_kept, "there is weather")
        forecast = json.loads(await redis.get(first) or b"")
        old = json.dumps(forecast | {"fetched_at": forecast["fetched_at"] - 7200})
        await redis.mset({f"weather:{place_id}": old for place_id in place_ids})


async def all_is_counted(servers: Devstack, before: Counter[int], written: Written) -> None:
    """Wait until the outbox is empty, and the worker has counted what was acknowledged: each once."""
    expected = before + Counter(written.places.values())

    async def so() -> bool:
        return await outbox(servers) == 0 and await counts(servers, PLACES) == expected

    try:
        await wait_until(so, "the outbox is empty and each observation is counted once", timeout=2 * TIMEOUT)
    except AssertionError as error:
        counted, waiting = await counts(servers, PLACES), await outbox(servers)
        raise AssertionError(
            f"in the end {waiting} wait in the outbox; too few are counted of {dict(expected - counted)}, "
            f"too many of {dict(counted - expected)}"
        ) from error
    assert await counts(servers, PLACES) == expected, "and not once more"
