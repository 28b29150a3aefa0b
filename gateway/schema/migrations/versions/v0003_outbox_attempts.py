"""The attempts to publish an event of the outbox. Revision 0004 adds the indexes for them."""
# ruff: noqa: INP001 - Alembic runs the files of this folder by their path; it is not a package

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add columns with defaults, so that a gateway of the previous version can go on inserting. No row is rewritten."""
    op.add_column("outbox", sa.Column("attempts", sa.Integer, nullable=False, server_default="0"))
    op.add_column(
        "outbox",
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    )
    op.add_column("outbox", sa.Column("parked_at", sa.DateTime(timezone=True)))
    op.add_column("outbox", sa.Column("last_error", sa.Text))


def downgrade() -> None:
    """Drop the columns. The previous version tries parked events again, too."""
    for column in ("last_error", "parked_at", "next_attempt_at", "attempts"):
        op.drop_column("outbox", column)
