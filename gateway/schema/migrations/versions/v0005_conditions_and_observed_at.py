"""More conditions of observations, and the time that the reporter gives. Revision 0006 validates the constraint."""
# ruff: noqa: INP001 - Alembic runs the files of this folder by their path; it is not a package

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

CONSTRAINT = "ck_observations_condition"
PREVIOUS_CONDITIONS = ("drizzle", "rain", "sun", "snow", "fog")
CONDITIONS = (
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
)


def upgrade() -> None:
    """Add a column, and replace a constraint by a wider one. No row is rewritten or scanned."""
    op.add_column("observations", sa.Column("observed_at", sa.DateTime(timezone=True)))
    _replace_constraint(CONDITIONS)


def downgrade() -> None:
    """Drop the column. Rows with other conditions stay: the previous constraint applies to new rows only."""
    _replace_constraint(PREVIOUS_CONDITIONS)
    op.drop_column("observations", "observed_at")


def _replace_constraint(conditions: tuple[str, ...]) -> None:
    op.drop_constraint(op.f(CONSTRAINT), "observations", type_="check")
    op.create_check_constraint(
        op.f(CONSTRAINT), "observations", f"condition IN {conditions}", postgresql_not_valid=True
    )
