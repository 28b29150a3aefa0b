"""The revision of a database, read without Alembic, which serving does not import."""

from typing import Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

REVISIONS: Final = (
    "0001",
    "0002",
    "0003",
    "0004",
    "0005",
    "0006",
    "0007",
    "0008",
)  # oldest first; a test compares them with `migrations/versions`
HEAD: Final = REVISIONS[-1]  # the revision that this version needs

_SELECT = text("SELECT version_num FROM alembic_version")
_UNDEFINED_TABLE = "42P01"


class SchemaMismatchError(Exception):
    """The revision of the database is not the one that this version needs. The message gives the reason and the fix."""


async def current_revision(connection: AsyncConnection) -> str | None:
    """Fetch the revision of a database, with one SELECT. Return None if it was never migrated.

    In that case the SELECT fails, and with it the transaction of `connection`, unless it is in AUTOCOMMIT mode.
    """
    try:
        revision: str | None = await connection.scalar(_SELECT)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) == _UNDEFINED_TABLE:
            return None
        raise
    return revision


def describe_mismatch(revision: str | None) -> str | None:
    """Return the reason why this version cannot use a database at `revision`, and the fix. None if it can."""
    if revision == HEAD:
        return None
    if revision is None:
        return f"the database was never migrated and revision {HEAD} is needed: run `gateway migrate`"
    if revision in REVISIONS:
        return f"the database is at revision {revision}, behind {HEAD}: run `gateway migrate`"
    return (
        f"the database is at revision {revision}, which is unknown to this version (it needs {HEAD}): upgrade gateway"
    )
