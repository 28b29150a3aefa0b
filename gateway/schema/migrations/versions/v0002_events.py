"""Idempotency keys of observations, the outbox, and the ids of consumed events. Revision 0004 adds the index of the keys."""
# ruff: noqa: INP001 - Alembic runs the files of this folder by their path; it is not a package

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add a column and two tables. No row is rewritten, so a large table is upgraded as fast as a small one."""
    op.add_column("observations", sa.Column("idempotency_key", sa.Text))
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), nullable=False),
        sa.Column("event_id", sa.Uuid, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
    )
    op.create_table(
        "consumed_events",
        sa.Column("event_id", sa.Uuid, nullable=False),
        sa.Column("consumed_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("event_id", name="pk_consumed_events"),
    )
    op.create_index("ix_consumed_events_consumed_at", "consumed_events", ["consumed_at"])


def downgrade() -> None:
    """Drop them and the index of the keys, with the events that are not published yet."""
    op.drop_table("consumed_events")
    op.drop_table("outbox")
    op.drop_column("observations", "idempotency_key")
