"""Validation of the conditions of observations."""
# ruff: noqa: INP001 - Alembic runs the files of this folder by their path; it is not a package

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Scan the table in a transaction of its own, whose lock blocks neither readers nor writers."""
    op.execute("ALTER TABLE observations VALIDATE CONSTRAINT ck_observations_condition")


def downgrade() -> None:
    """Do nothing: the constraint stays valid until revision 0005 replaces it."""
