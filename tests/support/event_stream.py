"""Server-sent events as a client sees them (the HTML standard, 9.2)."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from tests.support.waiting import TIMEOUT


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event. Its data is parsed as JSON."""

    name: str
    data: Any
    id: str = ""
    retry: str = ""


@asynccontextmanager
async def event_stream(
    url: str, headers: Mapping[str, str], *, client: httpx.AsyncClient | None = None
) -> AsyncIterator[AsyncIterator[StreamEvent]]:
    """Open a stream, and yield its events. It is closed after the block.

    Without `client`, it has a client of its own.
    """
    async with AsyncExitStack() as stack:
        if client is None:
            client = await stack.enter_async_context(httpx.AsyncClient(timeout=TIMEOUT))
        response = await stack.enter_async_context(client.stream("GET", url, headers=headers))
        assert response.headers["Content-Type"].startswith("text/event-stream"), await response.aread()
        yield _parse(response)


async def _parse(response: httpx.Response) -> AsyncIterator[StreamEvent]:
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield StreamEvent(
                fields["event"], json.loads(fields["data"]), fields.get("id", ""), fields.get("retry", "")
            )
            fields = {}
