"""The indexes of tables that may be large already: idempotency keys, and the outbox.

Revision 0002 created the first one before, and blocked writers meanwhile. A database that has it keeps it.
"""
# ruff: noqa: INP001 - Alembic runs the files of this folder by their path; it is not a package

from alembic import op

from gateway.schema.concurrent_index import create_index_concurrently

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create the indexes without blocking readers or writers. An interrupted run can be repeated."""
    create_index_concurrently(
        "ix_observations_idempotency_key",
        "observations",
        ["idempotency_key"],
        where="idempotency_key IS NOT NULL",
        unique=True,
    )
    create_index_concurrently(
        "ix_outbox_attempts_next_attempt_at_id",
        "outbox",
        ["attempts", "next_attempt_at", "id"],
        where="parked_at IS NULL",
    )
    create_index_concurrently("ix_outbox_parked_at", "outbox", ["parked_at"], where="parked_at IS NOT NULL")


def downgrade() -> None:
    """Drop the indexes of the outbox. The previous version needs the index of the keys."""
    with op.get_context().autocommit_block():
        op.drop_index("ix_outbox_parked_at", "outbox", postgresql_concurrently=True, if_exists=True)
        op.drop_index("ix_outbox_attempts_next_attempt_at_id", "outbox", postgresql_concurrently=True, if_exists=True)
