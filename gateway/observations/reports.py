"""Reports of clients: an observation to store, its idempotency key, and the outcomes."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, TypeAlias

from gateway.observations.queries import Observation


class ReportError(Exception):
    """The report is not stored, because of what it contains."""


class UnknownPlaceError(ReportError):
    """There is no place with this id."""


class KeyReusedError(ReportError):
    """The idempotency key was used for a different observation."""


class KeyInFlightError(ReportError):
    """Another transaction stores an observation with the same idempotency key, and has not ended."""


@dataclass(frozen=True, slots=True)
class NewObservation:
    """An observation that is not stored yet.

    `condition` is one of `CONDITIONS`. `observed_at` has a time zone; the same time in two zones is equal. `reporter` is the
    name of the API key, or empty without one. It is not public.
    """

    place_id: int
    temperature_c: float
    condition: str
    note: str | None
    observed_at: datetime | None = None
    reporter: str = ""


class Report(NamedTuple):
    """An observation to store, the idempotency key of its client, and the context of its trace, if it has them."""

    new: NewObservation
    idempotency_key: str | None
    traceparent: str | None = None

    @property
    def stored_key(self) -> str | None:
        """The key as it is stored: each reporter has keys of its own for each place. None of the parts has a space."""
        if self.idempotency_key is None:
            return None
        return f"{self.new.reporter} {self.new.place_id} {self.idempotency_key}"

    def is_equal_to(self, stored: Observation) -> bool:
        """Return whether the stored observation is the one of this report, apart from the reporter."""
        new = self.new
        return (new.temperature_c, new.condition, new.note, new.observed_at, new.place_id) == (
            stored.temperature_c,
            stored.condition,
            stored.note,
            stored.observed_at,
            stored.place_id,
        )


class Stored(NamedTuple):
    """A stored observation, and whether it is new. Otherwise an earlier report with the same key has stored it."""

    observation: Observation
    is_new: bool


Outcome: TypeAlias = Stored | ReportError
