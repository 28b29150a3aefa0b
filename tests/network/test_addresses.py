"""A name with several addresses, of which some are dead. The resolver is replaced, because no test may change the machine's."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator

import pytest

from gateway.network.addresses import ATTEMPT_DELAY, open_socket, reachable_address
from tests.support.dead_address import DEAD, dead_address, resolve_to


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A port that accepts connections on 127.0.0.1. The same port of `DEAD` has a full backlog, which drops every SYN."""
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    number = server.sockets[0].getsockname()[1]
    async with server:
        with dead_address(number):
            yield number


@pytest.mark.parametrize("addresses", [(DEAD, "127.0.0.1"), ("127.0.0.1", DEAD)], ids=["dead first", "dead last"])
async def test_reachable_address(monkeypatch: pytest.MonkeyPatch, port: int, addresses: tuple[str, ...]) -> None:
    """An address that does not respond costs a fraction of a second, in any order."""
    resolve_to(monkeypatch, port, *addresses)
    started_at = time.monotonic()

    assert await reachable_address("a-name.example", port) == "127.0.0.1"
    with await open_socket("a-name.example", port) as connected:
        assert connected.getpeername() == ("127.0.0.1", port)
    assert time.monotonic() - started_at < 2 * ATTEMPT_DELAY + 1


async def test_refused(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """If no address accepts the connection, the error is one of the network."""
    del port
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        resolve_to(monkeypatch, closed.getsockname()[1], "127.0.0.1", "127.0.0.2")

        with pytest.raises(OSError, match=r"Multiple exceptions|refused"):
            await reachable_address("a-name.example", closed.getsockname()[1])


async def test_ip_address() -> None:
    """An IP address is not tested, because there is no other one to use."""
    assert await reachable_address("192.0.2.1", 1) == "192.0.2.1"
    assert await reachable_address("::1", 1) == "::1"
