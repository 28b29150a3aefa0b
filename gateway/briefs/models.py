"""A section: one part of a brief, with its own source, status and age."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Generic, TypeVar

from pydantic import Field

T = TypeVar("T")


class Status(StrEnum):
    """How good the data of a section is."""

    OK = "ok"
    STALE = "stale"
    UNAVAILABLE = "unavailable"


# Each brief names them a dozen times, and to find a member by its name takes Python longer than to call a function.
OK = Status.OK
STALE = Status.STALE
UNAVAILABLE = Status.UNAVAILABLE


class Reason(StrEnum):
    """Why a section is not ok."""

    TIMEOUT = "timeout"
    REFUSED = "refused"
    ERROR = "error"
    OPEN = "open"
    """Its source kept failing, and was not asked for a while."""
    NO_WEATHER = "no_weather"


# As all that a brief is made of it has no slots, with which orjson takes four times as long; and it is not frozen, as what each brief
# makes anew, which would take five times as long.
@dataclass(kw_only=True)
class Section(Generic[T]):
    """One part of a brief, with its own status."""

    status: Status
    reason: Annotated[Reason | None, Field(description="Why it is not ok")] = None
    age_s: Annotated[float | None, Field(description="How old the data is, in seconds")] = None
    took_ms: Annotated[float, Field(description="How long this part took, in milliseconds")]
    data: Annotated[T | None, Field(description="None where it is unavailable")] = None


def unavailable(reason: Reason, took: float) -> Section[Any]:
    """The section that is not there, which took `took` seconds to tell."""
    return Section(status=UNAVAILABLE, reason=reason, took_ms=milliseconds(took))


def milliseconds(seconds: float) -> float:
    """As sections tell it: to the microsecond, downwards; `round` takes three times as long."""
    return int(seconds * 1_000_000) / 1000
