"""Clients that disconnect before they have their response."""

import asyncio
import gc
import weakref

import pytest
from fastapi import Request
from starlette.types import Message

from gateway.api import disconnect
from gateway.api.disconnect import CancelOnDisconnect
from tests.support.waiting import TIMEOUT


class Connection:
    """A connection of a client, as the server passes it to the app."""

    def __init__(self) -> None:
        self.watched = asyncio.Event()
        self.disconnected = asyncio.Event()

    async def receive(self) -> Message:
        self.watched.set()
        await self.disconnected.wait()
        return {"type": "http.disconnect"}


@pytest.fixture(autouse=True)
def without_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disconnect, "WATCH_DELAY", 0)


async def test_disconnected_client() -> None:
    """A task inside the block is cancelled when its client disconnects, and the request has the reason."""
    connection = Connection()
    connection.disconnected.set()
    request = Request({"type": "http"}, connection.receive)

    async def respond() -> None:
        with CancelOnDisconnect(request):
            await asyncio.sleep(TIMEOUT)

    responding = asyncio.create_task(respond())
    await asyncio.wait({responding}, timeout=TIMEOUT)

    assert responding.cancelled()
    assert request.state.disconnected


async def test_slow_request_leaves_no_cycle() -> None:
    """A request whose connection was watched is freed without the garbage collector, which would hold the loop under load."""
    connection = Connection()
    request = Request({"type": "http"}, connection.receive)
    freed = asyncio.Event()
    weakref.finalize(request, freed.set)
    gc.disable()
    try:
        with CancelOnDisconnect(request):
            await connection.watched.wait()
        del request
        async with asyncio.timeout(TIMEOUT):
            await freed.wait()
    finally:
        gc.enable()
