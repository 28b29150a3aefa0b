"""Places and observations."""
# ruff: noqa: INP001 - Alembic runs the files of this folder by their path; it is not a package

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create both tables and their indexes."""
    op.create_table(
        "places",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("ascii_name", sa.Text, nullable=False),
        sa.Column("country_code", sa.Text, nullable=False),
        sa.Column("admin1_code", sa.Text, nullable=False),
        sa.Column("latitude", sa.Double, nullable=False),
        sa.Column("longitude", sa.Double, nullable=False),
        sa.Column("population", sa.Integer, nullable=False),
        sa.Column("timezone", sa.Text, nullable=False),
        sa.Column("folded_name", sa.Text(collation="C"), nullable=False),
        sa.Column("folded_ascii_name", sa.Text(collation="C"), nullable=False),
        sa.Column("observation_count", sa.Integer, nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("id", name="pk_places"),
        postgresql_with={"fillfactor": 90},
    )
    op.create_index("ix_places_folded_name", "places", ["folded_name"])
    op.create_index("ix_places_folded_ascii_name", "places", ["folded_ascii_name"])
    op.create_index("ix_places_population_id", "places", [sa.text("population DESC"), "id"])

    op.create_table(
        "observations",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), nullable=False),
        sa.Column("place_id", sa.Integer, nullable=False),
        sa.Column("temperature_c", sa.Double, nullable=False),
        sa.Column("condition", sa.Text, nullable=False),
        sa.Column("note", sa.Text),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("id", name="pk_observations"),
        sa.ForeignKeyConstraint(["place_id"], ["places.id"], name="fk_observations_place_id"),
        sa.CheckConstraint("temperature_c BETWEEN -100.0 AND 70.0", name=op.f("ck_observations_temperature_c")),
        sa.CheckConstraint(
            "condition IN ('drizzle', 'rain', 'sun', 'snow', 'fog')", name=op.f("ck_observations_condition")
        ),
        sa.CheckConstraint("char_length(note) <= 1000", name=op.f("ck_observations_note")),
    )
    op.create_index("ix_observations_place_id_created_at_id", "observations", ["place_id", "created_at", "id"])


def downgrade() -> None:
    """Drop both tables, with all observations."""
    op.drop_table("observations")
    op.drop_table("places")
