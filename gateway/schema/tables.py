"""The tables in SQLAlchemy Core. The migrations create them, and a test compares both."""

from typing import Literal, get_args

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    Uuid,
    func,
    text,
)

# The kinds of weather that people can see, after WMO's code of present weather (WMO-No. 306, code table 4677). The table in
# docs/events.md has the code figures of each word.
Condition = Literal[
    "sun",
    "clear",
    "partly_cloudy",
    "cloudy",
    "overcast",
    "smoke",
    "haze",
    "dust",
    "mist",
    "fog",
    "drizzle",
    "freezing_drizzle",
    "rain",
    "freezing_rain",
    "sleet",
    "snow",
    "ice_pellets",
    "showers",
    "snow_showers",
    "hail",
    "thunderstorm",
]
CONDITIONS: tuple[str, ...] = get_args(Condition)

# The records at ground level are -89.2 and 56.7.
MIN_TEMPERATURE_C = -100.0
MAX_TEMPERATURE_C = 70.0

MAX_NOTE_LENGTH = 1000  # characters
MAX_PLACE_ID = 2**31 - 1  # of an integer column; GeoNames' ids have eight digits
MAX_OBSERVATION_ID = 2**63 - 1  # of a bigint column

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

places = Table(
    "places",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("ascii_name", Text, nullable=False),
    Column("country_code", Text, nullable=False),
    Column("admin1_code", Text, nullable=False),
    Column("latitude", Double, nullable=False),
    Column("longitude", Double, nullable=False),
    Column("population", Integer, nullable=False),
    Column("timezone", Text, nullable=False),
    # For the search (`gateway.places.folding`). With the collation "C" a prefix is a range of a plain index, whatever the
    # locale of the database.
    Column("folded_name", Text(collation="C"), nullable=False),
    Column("folded_ascii_name", Text(collation="C"), nullable=False),
    # Updated by the worker only; `gateway seed` does not change it.
    Column("observation_count", Integer, nullable=False, server_default="0"),
    Index(None, "folded_name"),
    Index(None, "folded_ascii_name"),
    # Free space in each page, so that counting an observation is a heap-only update, which changes no index.
    postgresql_with={"fillfactor": 90},
)
Index("ix_places_population_id", places.c.population.desc(), places.c.id)

observations = Table(
    "observations",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("place_id", Integer, ForeignKey(places.c.id), nullable=False),
    Column("temperature_c", Double, nullable=False),
    Column("condition", Text, nullable=False),
    Column("note", Text),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    # The time of the observation itself, if the reporter gives one.
    Column("observed_at", DateTime(timezone=True)),
    # The reporter, the place and the key of the client (`gateway.observations.store`), so that it can safely send a request
    # again. Revisions before 0007 stored the key alone.
    Column("idempotency_key", Text),
    # The name of the API key. Empty for a client without a key, and for observations from before revision 0007.
    Column("reporter", Text, nullable=False, server_default=""),
    CheckConstraint(
        f"temperature_c BETWEEN {MIN_TEMPERATURE_C} AND {MAX_TEMPERATURE_C}",
        name="temperature_c",
    ),
    CheckConstraint(f"condition IN {CONDITIONS}", name="condition"),
    CheckConstraint(f"char_length(note) <= {MAX_NOTE_LENGTH}", name="note"),
    # The latest observations of a place are at the end of a range of this index.
    Index(None, "place_id", "created_at", "id"),
)
Index(
    "ix_observations_idempotency_key",
    observations.c.idempotency_key,
    unique=True,
    postgresql_where=observations.c.idempotency_key.is_not(None),
)

# Events that are not published yet. Each is written in the transaction of the change that it reports, and deleted when the
# broker has confirmed it. An event that the broker does not accept is tried again later, and parked after some attempts.
outbox = Table(
    "outbox",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("event_id", Uuid, nullable=False),
    Column("type", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("attempts", Integer, nullable=False, server_default="0"),  # that have failed
    Column("next_attempt_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("parked_at", DateTime(timezone=True)),
    Column("last_error", Text),
    Column("traceparent", Text),  # the context of the trace in which the event was written (`gateway.telemetry`)
    # The order of the relay: new events before those that failed.
    Index(None, "attempts", "next_attempt_at", "id", postgresql_where=text("parked_at IS NULL")),
    Index(None, "parked_at", postgresql_where=text("parked_at IS NOT NULL")),
)

# The ids of the events that the worker has counted. The broker may deliver an event more than once.
consumed_events = Table(
    "consumed_events",
    metadata,
    Column("event_id", Uuid, primary_key=True),
    Column("consumed_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index(None, "consumed_at"),
)
