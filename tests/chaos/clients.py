"""Those who read and write all the while, and remember what they were told."""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import aiohttp

PATIENCE = 10.0
"""Seconds that a client waits for an answer."""

LAST_TRIES = 60.0
"""Seconds after the end within which the last reports have to be acknowledged."""

AGAIN = 0.2
"""How many of the reports that were acknowledged are sent again."""


@dataclass(slots=True)
class Seen:
    """One answer, or its absence."""

    replica: str
    sent: float
    answered: float
    status: int | None
    """None: the connection was refused, lost, or nobody answered."""
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


@dataclass
class Written:
    """What was acknowledged: the id of the observation, by the note that is in it."""

    ids: dict[str, int] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)
    answers: list[Seen] = field(default_factory=list)


async def ask(session: aiohttp.ClientSession, replica: str, method: str, url: str, **options: Any) -> Seen:
    """Ask, and tell what came of it."""
    sent = time.monotonic()
    try:
        async with session.request(method, url, timeout=aiohttp.ClientTimeout(PATIENCE), **options) as response:
            body = await response.json(content_type=None)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        return Seen(replica, sent, time.monotonic(), None, error=repr(error))
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Seen(replica, sent, time.monotonic(), response.status, headers, body)


async def read(
    urls: dict[str, str], places: Sequence[int], chance: random.Random, until: float, seen: list[Seen]
) -> None:
    """Ask for one brief after the other."""
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < until:
            replica, url = chance.choice(sorted(urls.items()))
            seen.append(await ask(session, replica, "GET", f"{url}/v1/places/{chance.choice(places)}/brief"))
            await asyncio.sleep(chance.uniform(0, 0.1))


async def write(
    urls: dict[str, str], places: Sequence[int], chance: random.Random, until: float, written: Written
) -> None:
    """Report one thing after the other, each until it is acknowledged; some again, as if the answer had been lost."""
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < until:
            note, place = str(uuid4()), chance.choice(places)
            acknowledged = 0
            while acknowledged < 1 or (acknowledged < 2 and chance.random() < AGAIN):
                replica, url = chance.choice(sorted(urls.items()))
                answer = await ask(
                    session,
                    replica,
                    "POST",
                    f"{url}/v1/places/{place}/observations",
                    json={"temperature_c": 12.5, "condition": "rain", "note": note},
                    headers={"Idempotency-Key": note},
                )
                written.answers.append(answer)
                if answer.status == 201:
                    acknowledged += 1
                    assert written.ids.setdefault(note, answer.body["id"]) == answer.body["id"], "another row"
                    written.places[note] = place
                else:
                    assert time.monotonic() < until + LAST_TRIES, f"it is not taken: {answer}"
                    await asyncio.sleep(chance.uniform(0.05, 0.2))
            await asyncio.sleep(chance.uniform(0, 0.1))
