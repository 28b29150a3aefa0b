"""The brief and its sections, as the API returns them, and the reasons why a section is not ok."""

import socket
from collections.abc import ItemsView, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Generic, TypeVar

from pydantic import Field

from gateway.briefs.circuit_breaker import CircuitOpenError
from gateway.briefs.weather import Weather
from gateway.event_loop import OverloadedError
from gateway.observations.queries import Observation
from gateway.places.queries import Place
from gateway.resources import http

T = TypeVar("T")

MAX_VIEWS = 2**63  # a counter of Redis stays below it


class Status(StrEnum):
    """The quality of a section's data."""

    OK = "ok"
    STALE = "stale"
    UNAVAILABLE = "unavailable"


class Reason(StrEnum):
    """Why a section is not ok."""

    TIMEOUT = "timeout"
    OVERLOADED = "overloaded"  # a timeout while the event loop of the gateway was held: the source may be healthy
    REFUSED = "refused"
    ERROR = "error"
    OPEN = "open"  # the circuit breaker is open: the source kept failing, so it was not called
    NO_WEATHER = "no_weather"


# The models of a brief have no slots, because orjson takes four times as long for those. The ones that each brief creates are not
# frozen either: that would make creating them five times slower.
@dataclass(kw_only=True)
class Section(Generic[T]):
    """One part of a brief, with its own status."""

    status: Status
    reason: Annotated[Reason | None, Field(description="Why it is not ok")] = None
    age_s: Annotated[float | None, Field(description="The age of the data in seconds")] = None
    took_ms: Annotated[float, Field(description="The duration of this part in milliseconds")]
    data: Annotated[T | None, Field(description="null where it is unavailable")] = None


@dataclass(frozen=True)
class Outlook:
    """The model's prediction from the weather."""

    wet_tomorrow_probability: Annotated[float, Field(ge=0, le=1, description="The chance that tomorrow is wet")]


@dataclass
class Popularity:
    """The number of requests for the brief of a place."""

    views: Annotated[int, Field(ge=0, lt=MAX_VIEWS)]

    def __post_init__(self) -> None:
        if not 0 <= self.views < MAX_VIEWS:
            raise ValueError("the value in Redis is not a count of views")


@dataclass(kw_only=True)
class Sections:
    """The parts of a brief."""

    weather: Section[Weather]
    outlook: Section[Outlook]
    observations: Section[list[Observation]]
    popularity: Section[Popularity]

    def items(self) -> ItemsView[str, Section[Any]]:
        """Return the names and the sections."""
        return vars(self).items()


@dataclass(kw_only=True)
class Brief:
    """The aggregated response about one place."""

    place: Place
    complete: Annotated[bool, Field(description="True unless a section is unavailable")]
    sections: Sections


def unavailable(reason: Reason, elapsed: float) -> Section[Any]:
    """Return a section without data, `elapsed` seconds after it was requested."""
    return Section(status=Status.UNAVAILABLE, reason=reason, took_ms=milliseconds(elapsed))


def milliseconds(seconds: float) -> float:
    """Return a duration in milliseconds, without fractions of a microsecond."""
    return int(seconds * 1_000_000) / 1000


def reason_for(error: BaseException) -> Reason:
    """Return the reason behind an error of any client library.

    Each library wraps the errors of the socket in its own way, so the whole chain of causes is searched.
    """
    if isinstance(error, CircuitOpenError):
        return Reason.OPEN
    if isinstance(error, OverloadedError):
        return Reason.OVERLOADED
    if any(
        isinstance(cause, ConnectionRefusedError | socket.gaierror) or http.is_connection_refused(cause)
        for cause in _causes(error)
    ):
        return Reason.REFUSED
    if isinstance(error, TimeoutError) or http.is_timeout(error):
        return Reason.TIMEOUT
    return Reason.ERROR


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and the chain of its causes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
