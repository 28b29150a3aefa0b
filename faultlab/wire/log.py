"""What several proxies saw, in one order: which connection was opened and closed when, by whom, and how."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from faultlab.wire.framing import Side


class ClosedBy(StrEnum):
    """Who closed a connection first."""

    CLIENT = "client"
    SERVER = "server"
    LAB = "lab"

    @classmethod
    def of(cls, side: Side) -> "ClosedBy":
        return cls(side.value)


@dataclass(frozen=True, slots=True)
class Opened:
    at: float
    """Seconds since the log began."""
    proxy: str
    connection: int
    """Its number at this proxy; the first is 1."""

    def __str__(self) -> str:
        return f"{self.proxy} {self.connection} opened"


@dataclass(frozen=True, slots=True)
class Closed:
    """A client that lets go by force often closes as cleanly as one that is polite: what it said last tells them apart."""

    at: float
    proxy: str
    connection: int
    by: ClosedBy
    reset: bool
    """Whether it was closed with RST instead of FIN."""
    last: str | None
    """The client's last message before it."""

    def __str__(self) -> str:
        how = "reset" if self.reset else "closed"
        return f"{self.proxy} {self.connection} {how} by the {self.by} after {self.last or 'no message'}"


class WireLog:
    """The ordered record of one or several proxies."""

    def __init__(self) -> None:
        self.records: list[Opened | Closed] = []
        self._began = time.monotonic()

    def __iter__(self) -> Iterator[Opened | Closed]:
        return iter(tuple(self.records))

    @property
    def closed(self) -> list[Closed]:
        """What was closed, in order."""
        return [record for record in self.records if isinstance(record, Closed)]

    def opens(self, proxy: str, connection: int) -> None:
        self.records.append(Opened(time.monotonic() - self._began, proxy, connection))

    def closes(self, proxy: str, connection: int, *, by: ClosedBy, reset: bool, last: str | None) -> None:
        self.records.append(Closed(time.monotonic() - self._began, proxy, connection, by, reset, last))
