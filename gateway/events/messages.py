"""What an event says: JSON with an id, by which whoever gets it twice knows it again."""

from datetime import UTC, datetime
from typing import Annotated, Literal, Self, TypeVar
from uuid import UUID, uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.schema.tables import MAX_PLACE_ID

PlaceId = Annotated[int, Field(ge=1, le=MAX_PLACE_ID)]


class PoisonMessageError(Exception):
    """A message is no event of the kind that its queue holds, and will not become one."""


class Event(BaseModel):
    """What all events have. A field that we do not know is one of a later version, and is left alone."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    type: str
    at: datetime

    @classmethod
    def create(cls, data: BaseModel) -> Self:
        """A new one. Neither id nor time has a default, for what was read without one would get another each time."""
        return cls.model_validate({"id": uuid4(), "at": datetime.now(UTC), "data": data})


class ObservationRef(BaseModel):
    """Which observation it was."""

    observation_id: int
    place_id: PlaceId


class ObservationReported(Event):
    """Somebody reported an observation. It is never lost, and counted once."""

    type: Literal["observation.reported"] = "observation.reported"
    data: ObservationRef


class ViewCounts(BaseModel):
    """How often the brief of each place was asked for."""

    views: dict[PlaceId, Annotated[int, Field(ge=1)]]


class BriefViewed(Event):
    """Briefs were asked for. It stands for many views at once, and may be lost."""

    type: Literal["brief.viewed"] = "brief.viewed"
    data: ViewCounts


E = TypeVar("E", bound=Event)


def encode(event: Event) -> bytes:
    return event.model_dump_json().encode()


def decode(body: bytes, kind: type[E]) -> E:
    """Read an event of one kind.

    Raises:
        PoisonMessageError: it is none. The message says why, and does not repeat what the body says.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        mistakes = error.errors(include_url=False, include_input=False, include_context=False)
        why = "; ".join(f"{'.'.join(map(str, mistake['loc']))}: {mistake['msg']}" for mistake in mistakes[:3])
        raise PoisonMessageError(why.strip(": ")) from None
