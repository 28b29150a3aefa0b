"""Indexes that are added to existing tables, for migrations."""

from alembic import op
from sqlalchemy import text

_IS_INVALID = text("SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid)")


def create_index_concurrently(name: str, table: str, columns: list[str], *, where: str, unique: bool = False) -> None:
    """Create a partial index while others read and write the table, unless it exists.

    PostgreSQL does this outside of a transaction, and commits what the migration did before. If it is interrupted, it
    leaves an index that is invalid: no query uses it, but each write maintains it. Such an index is dropped and created
    again.
    """
    with op.get_context().autocommit_block():
        if op.get_bind().scalar(_IS_INVALID, {"name": name}):
            op.drop_index(name, table, postgresql_concurrently=True)
        op.create_index(
            name,
            table,
            columns,
            unique=unique,
            postgresql_where=text(where),
            postgresql_concurrently=True,
            if_not_exists=True,
        )
