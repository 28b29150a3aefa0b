"""The reporter of an observation: the name of the API key with which it was written."""
# ruff: noqa: INP001 - Alembic runs the files of this folder by their path; it is not a package

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add a column with a default, so that a gateway of the previous version can go on inserting. No row is rewritten."""
    op.add_column("observations", sa.Column("reporter", sa.Text, nullable=False, server_default=""))


def downgrade() -> None:
    """Drop the column, with the reporters of all observations."""
    op.drop_column("observations", "reporter")
