"""The tables, as SQLAlchemy Core knows them. The migrations make them; a test keeps the two the same."""

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
    func,
)

CONDITIONS = ("drizzle", "rain", "sun", "snow", "fog")
"""What an observation may say of the sky."""

LOWEST_TEMPERATURE_C = -100.0
HIGHEST_TEMPERATURE_C = 70.0
"""Colder and hotter than was ever measured on the ground (-89.2 and 56.7): beyond them it is a mistake."""

LONGEST_NOTE = 1000
"""The most characters that the note of an observation may have."""

LARGEST_PLACE_ID = 2**31 - 1
"""The largest integer that the column takes; GeoNames' ids have eight digits."""

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
    # What a search compares (`gateway.places.folding`). In the order of their bytes, whatever the locale of the
    # database, a prefix is a range of a plain index.
    Column("folded_name", Text(collation="C"), nullable=False),
    Column("folded_ascii_name", Text(collation="C"), nullable=False),
    # Kept by the worker that counts observations; loading the table of places leaves it alone.
    Column("observation_count", Integer, nullable=False, server_default="0"),
    Index(None, "folded_name"),
    Index(None, "folded_ascii_name"),
    # Room in each page, so that counting an observation need not touch the indexes (a heap-only update).
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
    CheckConstraint(
        f"temperature_c BETWEEN {LOWEST_TEMPERATURE_C} AND {HIGHEST_TEMPERATURE_C}",
        name="temperature_c",
    ),
    CheckConstraint(f"condition IN {CONDITIONS}", name="condition"),
    CheckConstraint(f"char_length(note) <= {LONGEST_NOTE}", name="note"),
    # The latest of a place are the end of a range of this index.
    Index(None, "place_id", "created_at", "id"),
)
