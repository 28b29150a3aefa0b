"""A name with several addresses, of which one is dead. The resolver is replaced, because no test may change the machine's."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

DEAD = "127.0.0.99"


@contextmanager
def dead_address(port: int) -> Iterator[None]:
    """Have a full backlog at `port` of `DEAD`, so that the kernel drops each SYN, as a firewall does."""
    with socket.socket() as full, socket.socket() as filler, socket.socket() as second_filler:
        full.bind((DEAD, port))
        full.listen(0)
        for client in (filler, second_filler):
            client.setblocking(False)
            client.connect_ex((DEAD, port))
        yield


def resolve_to(monkeypatch: pytest.MonkeyPatch, port: int, *addresses: str) -> None:
    """Have all names resolve to these addresses."""

    async def getaddrinfo(*_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
