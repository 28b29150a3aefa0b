"""The content of events: JSON with a unique id, by which a consumer detects an event that is delivered again."""

from datetime import UTC, datetime
from typing import Annotated, Literal, Self, TypeVar
from uuid import UUID, uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.schema.tables import MAX_PLACE_ID

MAX_REPORTED_ERRORS = 3

PlaceId = Annotated[int, Field(ge=1, le=MAX_PLACE_ID)]


class PoisonMessageError(Exception):
    """A message is not a valid event of the type that its queue carries, and a retry cannot change that."""


class Event(BaseModel):
    """The fields that all events have. Unknown fields, which a later version may add, are ignored."""

    model_config = ConfigDict(frozen=True)

    id: UUID
    type: str
    at: datetime

    @classmethod
    def create(cls, data: BaseModel) -> Self:
        """Create an event with a new id and the current time.

        The fields have no defaults, because a message without an id would then get a different id each time it is read.
        """
        return cls.model_validate({"id": uuid4(), "at": datetime.now(UTC), "data": data})


class ObservationRef(BaseModel):
    """A reference to an observation."""

    observation_id: int
    place_id: PlaceId


class ObservationReported(Event):
    """An observation was reported. The event is never lost, and counted once."""

    type: Literal["observation.reported"] = "observation.reported"
    data: ObservationRef


class ViewCounts(BaseModel):
    """The number of views of each place's brief."""

    views: dict[PlaceId, Annotated[int, Field(ge=1)]]


class BriefViewed(Event):
    """Briefs were requested. One event carries the counts of many views, and may be lost."""

    type: Literal["brief.viewed"] = "brief.viewed"
    data: ViewCounts


E = TypeVar("E", bound=Event)


def encode(event: Event) -> bytes:
    return event.model_dump_json().encode()


def decode(body: bytes, event_type: type[E]) -> E:
    """Parse the body of a message as an event of the given type.

    Raises:
        PoisonMessageError: the body is not such an event. The message gives the reasons, without any values of the body.
    """
    try:
        return event_type.model_validate_json(body)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False, include_context=False)
        reasons = [f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in details[:MAX_REPORTED_ERRORS]]
        raise PoisonMessageError("; ".join(reasons).strip(": ")) from None
