"""The trace contexts of the events in the outbox."""
# ruff: noqa: INP001 - Alembic runs the files of this folder by their path; it is not a package

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add a column without a value, so that a gateway of the previous version can go on inserting. No row is rewritten."""
    op.add_column("outbox", sa.Column("traceparent", sa.Text))


def downgrade() -> None:
    """Drop the column. The events that wait are published without their trace contexts."""
    op.drop_column("outbox", "traceparent")
