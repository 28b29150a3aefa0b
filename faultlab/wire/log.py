"""The log of one or more proxies: when each connection was opened and closed, by which side, and how."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from .framing import Side


class ClosedBy(StrEnum):
    """The side that closed a connection first; LAB is the proxy, by a fault."""

    CLIENT = "client"
    SERVER = "server"
    LAB = "lab"

    @classmethod
    def of(cls, side: Side) -> "ClosedBy":
        return cls(side.value)


@dataclass(frozen=True, slots=True)
class Opened:
    """A client has connected.

    Attributes:
        at: seconds since the start of the log.
        proxy: the name of the proxy.
        connection: the number of the connection at this proxy, from 1.
    """

    at: float
    proxy: str
    connection: int

    def __str__(self) -> str:
        return f"{self.proxy} {self.connection} opened"


@dataclass(frozen=True, slots=True)
class Closed:
    """A connection was closed. The client's last message distinguishes a graceful close from an abort that sends FIN.

    Attributes:
        at: seconds since the start of the log.
        proxy: the name of the proxy.
        connection: the number of the connection at this proxy, from 1.
        by: the side that closed first.
        reset: whether it sent RST instead of FIN.
        last: the client's last message before that, or None.
    """

    at: float
    proxy: str
    connection: int
    by: ClosedBy
    reset: bool
    last: str | None

    def __str__(self) -> str:
        how = "reset" if self.reset else "closed"
        return f"{self.proxy} {self.connection} {how} by the {self.by} after {self.last or 'no message'}"


class WireLog:
    """The records of one or more proxies, in order."""

    def __init__(self) -> None:
        self.records: list[Opened | Closed] = []
        self._start = time.monotonic()

    def __iter__(self) -> Iterator[Opened | Closed]:
        return iter(tuple(self.records))

    @property
    def closed(self) -> list[Closed]:
        """The closed connections, in order."""
        return [record for record in self.records if isinstance(record, Closed)]

    def record_opened(self, proxy: str, connection: int) -> None:
        self.records.append(Opened(time.monotonic() - self._start, proxy, connection))

    def record_closed(self, proxy: str, connection: int, *, by: ClosedBy, reset: bool, last: str | None) -> None:
        self.records.append(Closed(time.monotonic() - self._start, proxy, connection, by, reset, last))
