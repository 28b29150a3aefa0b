"""Clients that read and write during the faults, and record every response."""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import aiohttp

CLIENT_TIMEOUT = 10.0
FINAL_TIMEOUT = 60.0  # from the end of the run until the last observations must be acknowledged
RESEND_PROBABILITY = 0.2  # of an acknowledged observation


@dataclass(slots=True)
class Response:
    """A response, or the lack of one.

    Attributes:
        replica: the name of the gateway that got the request.
        sent_at: `time.monotonic()` before the request.
        received_at: `time.monotonic()` after the response or the error.
        status: None without a response: the connection was refused or lost, or the request timed out.
        error: the error without a response.
    """

    replica: str
    sent_at: float
    received_at: float
    status: int | None
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


@dataclass
class AcknowledgedWrites:
    """The observations that the gateway acknowledged with a 201. Each has a unique note.

    Attributes:
        ids: the id in the acknowledgement, by note.
        places: the place, by note.
        responses: all responses, also those without an acknowledgement.
    """

    ids: dict[str, int] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)
    responses: list[Response] = field(default_factory=list)


async def request(session: aiohttp.ClientSession, replica: str, method: str, url: str, **options: Any) -> Response:
    """Send a request; return its response, with status None if there is none."""
    sent_at = time.monotonic()
    try:
        async with session.request(method, url, timeout=aiohttp.ClientTimeout(CLIENT_TIMEOUT), **options) as response:
            body = await response.json(content_type=None)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        return Response(replica, sent_at, time.monotonic(), None, error=repr(error))
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Response(replica, sent_at, time.monotonic(), response.status, headers, body)


async def read(
    urls: dict[str, str], places: Sequence[int], rng: random.Random, deadline: float, responses: list[Response]
) -> None:
    """Request one brief after the other until the deadline."""
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline:
            replica, url = rng.choice(sorted(urls.items()))
            responses.append(await request(session, replica, "GET", f"{url}/v1/places/{rng.choice(places)}/brief"))
            await asyncio.sleep(rng.uniform(0, 0.1))


async def write(
    urls: dict[str, str], places: Sequence[int], rng: random.Random, deadline: float, writes: AcknowledgedWrites
) -> None:
    """Send one observation after the other until the deadline, each until it is acknowledged.

    Some are sent again after that, as a client does that did not receive the response.
    """
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline:
            note, place = str(uuid4()), rng.choice(places)
            acknowledgements = 0
            while acknowledgements < 1 or (acknowledgements < 2 and rng.random() < RESEND_PROBABILITY):
                replica, url = rng.choice(sorted(urls.items()))
                response = await request(
                    session,
                    replica,
                    "POST",
                    f"{url}/v1/places/{place}/observations",
                    json={"temperature_c": 12.5, "condition": "rain", "note": note},
                    headers={"Idempotency-Key": note},
                )
                writes.responses.append(response)
                if response.status == 201:
                    acknowledgements += 1
                    first_id = writes.ids.setdefault(note, response.body["id"])
                    assert first_id == response.body["id"], "a repeated request created another observation"
                    writes.places[note] = place
                else:
                    assert time.monotonic() < deadline + FINAL_TIMEOUT, f"not acknowledged: {response}"
                    await asyncio.sleep(rng.uniform(0.05, 0.2))
            await asyncio.sleep(rng.uniform(0, 0.1))
